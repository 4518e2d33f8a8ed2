"""What is measured, in which order, and for how long. Pure.

A case is one way of one client; a group is the cases that are compared under one setting, run in
turns. The ratios name a case of ours and the one it is compared with.
"""

from collections.abc import Collection, Sequence
from typing import Final, Literal

import msgspec

__all__ = [
    "RATIOS",
    "SIZES",
    "Case",
    "Choice",
    "Group",
    "Kind",
    "Ratio",
    "Setting",
    "Sync",
    "estimate_s",
    "groups",
    "messages",
    "next_count",
    "tells",
]

Kind = Literal["publish", "consume"]
Sync = Literal["always", "default"]
Part = Literal["publish", "consume", "latency", "normalizer"]

#: Bytes of a body.
SIZES: Final = (128, 256, 1_024, 8_192, 65_536)
#: The size at which clients are compared.
COMPARED_SIZE: Final = 256

#: Bytes that one run may publish: beyond the page cache, the disk is measured and not a client.
_RUN_BYTES: Final = 96 * 1024 * 1024
_MOST_MESSAGES: Final = 200_000
_FEWEST_MESSAGES: Final = 200
#: A first run shorter than this says little about how many messages fill a longer one, seconds.
_TELLING_S: Final = 0.15
#: What a run takes beside its timed part, seconds: the stream made anew, the tasks handed out.
_OVERHEAD_S: Final = 0.15
_BROKER_START_S: Final = 6.0


class Setting(msgspec.Struct, frozen=True, order=True):
    """What a group of cases has in common."""

    replicas: int
    sync: Sync
    size: int

    def __str__(self) -> str:
        """For people: ``256 B, 1 replica, sync always``."""
        plural = "" if self.replicas == 1 else "s"
        return f"{self.size:,} B, {self.replicas} replica{plural}, sync {self.sync}"


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One way of one client, and what it may be tuned with."""

    client: Literal["interlock", "nats_py", "faststream"]
    way: str
    tries: tuple[int, ...] = (0,)
    """Windows, or sizes of a fetch: each is tried once; the fastest and the first are measured.

    The first as well, because one try on a busy machine may mislead.
    """

    @property
    def name(self) -> str:
        """``nats_py publish_async``."""
        return f"{self.client} {self.way}"


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Cases that are run in turns under one setting."""

    kind: Kind
    setting: Setting
    cases: tuple[Case, ...]
    runs: int
    run_s: float
    """How long a run is to last, seconds."""


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison that is reported by name."""

    name: str
    kind: Kind
    sync: Sync
    ours: str
    theirs: str


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """What a person asked for."""

    quick: bool = False
    sizes: tuple[int, ...] = SIZES
    replicas: tuple[int, ...] = (1, 3)
    sync: tuple[Sync, ...] = ("always", "default")
    parts: tuple[Part, ...] = ("publish", "consume", "latency", "normalizer")
    runs: int | None = None
    """None: 5 where clients are compared, else 3."""
    run_s: float | None = None
    """Seconds of a run. None: 0.8 where clients are compared, else 0.3."""

    @property
    def latency_runs(self) -> tuple[int, float]:
        """Runs of each latency, and seconds of a run: long enough for one in a thousand."""
        return self.runs or 3, self.run_s * 3 if self.run_s else 2.5

    @property
    def normalizer_runs(self) -> tuple[int, int]:
        """Runs of the normalizer, and legacy messages of a run."""
        run_s = self.run_s or (0.4 if self.quick else 1.2)
        return self.runs or 3, _bounded(round(15_000 * run_s), COMPARED_SIZE)


RATIOS: Final = (
    Ratio(
        name="durable_publish_vs_nats_py_async",
        kind="publish",
        sync="always",
        ours="interlock publish_soon",
        theirs="nats_py publish_async",
    ),
    Ratio(
        name="durable_publish_vs_faststream",
        kind="publish",
        sync="always",
        ours="interlock publish_soon",
        theirs="faststream publish",
    ),
    Ratio(
        name="durable_publish_vs_faststream_tasks",
        kind="publish",
        sync="always",
        ours="interlock publish_soon",
        theirs="faststream publish_tasks",
    ),
    Ratio(
        name="fast_publish_vs_nats_py_async",
        kind="publish",
        sync="default",
        ours="interlock bulk",
        theirs="nats_py publish_async",
    ),
    Ratio(
        name="consume_vs_nats_py_fetch",
        kind="consume",
        sync="always",
        ours="interlock consume_batches",
        theirs="nats_py fetch",
    ),
)

# 0 is nats-py's own window, 4,000.
_ASYNC: Final = Case(client="nats_py", way="publish_async", tries=(0, 256, 1_000, 16_000))
#: As its documentation has it: each publish awaited. And from as many tasks as suit it best.
_FASTSTREAM: Final = Case(client="faststream", way="publish", tries=(1,))
_FASTSTREAM_TASKS: Final = Case(client="faststream", way="publish_tasks", tries=(256, 2_000))
_SOON: Final = Case(client="interlock", way="publish_soon")
_BULK: Final = Case(client="interlock", way="bulk")
_TASKS: Final = (
    Case(client="interlock", way="publish", tries=(256,)),
    Case(client="interlock", way="publish_event", tries=(256,)),
)
_NATS_TASKS: Final = Case(client="nats_py", way="publish", tries=(256,))

_FETCH: Final = Case(client="nats_py", way="fetch", tries=(500, 100, 1_000))
_BATCHES: Final = Case(client="interlock", way="consume_batches", tries=(500,))
_SINGLES: Final = Case(client="interlock", way="consume", tries=(256,))
_SUBSCRIBER: Final = Case(client="faststream", way="subscriber", tries=(500,))


def groups(choice: Choice, clients: Collection[str]) -> list[Group]:
    """The groups of a choice, those of one broker together; only cases of installed `clients`."""
    sizes = (COMPARED_SIZE,) if choice.quick else choice.sizes
    replicas = (1,) if choice.quick else choice.replicas
    found = []
    for count in replicas:
        for sync in choice.sync:
            # The compared size first: memory is read after it, before large bodies have come by.
            for size in sorted(sizes, key=lambda size: (size != COMPARED_SIZE, size)):
                setting = Setting(count, sync, size)
                for kind in ("publish", "consume"):
                    if kind not in choice.parts:
                        continue
                    cases = tuple(
                        case
                        for case in _cases(kind, setting, quick=choice.quick)
                        if case.client in clients
                    )
                    if cases:
                        found.append(_group(kind, setting, cases, choice))
    return found


def _group(kind: Kind, setting: Setting, cases: tuple[Case, ...], choice: Choice) -> Group:
    compared = _compared(kind, setting)
    runs, run_s = (5, 0.8) if compared else (3, 0.3)
    if choice.quick:
        runs, run_s = 3, 0.4
    return Group(
        kind=kind,
        setting=setting,
        cases=cases,
        runs=choice.runs or runs,
        run_s=choice.run_s or run_s,
    )


def _compared(kind: Kind, setting: Setting) -> bool:
    """Whether one of the ratios is read from this group."""
    return (setting.size, setting.replicas) == (COMPARED_SIZE, 1) and any(
        ratio.kind == kind and ratio.sync == setting.sync for ratio in RATIOS
    )


def _cases(kind: str, setting: Setting, *, quick: bool) -> tuple[Case, ...]:
    if kind == "consume":
        if quick:
            return (_FETCH, _BATCHES) if setting.sync == "always" else ()
        if setting.size != COMPARED_SIZE:
            return (_FETCH, _BATCHES)
        return (_FETCH, _BATCHES, _SINGLES, _SUBSCRIBER)
    if quick:
        if setting.sync == "default":
            return (_ASYNC, _BULK)
        return (_ASYNC, _SOON, _FASTSTREAM, _FASTSTREAM_TASKS)
    if setting.size != COMPARED_SIZE:
        return (_ASYNC, _SOON, _BULK, _FASTSTREAM_TASKS)
    return (_ASYNC, _SOON, _BULK, _FASTSTREAM, _FASTSTREAM_TASKS, *_TASKS, _NATS_TASKS)


def messages(kind: Kind, setting: Setting, run_s: float) -> int:
    """How many messages the first run gets; a consume group keeps them, as all read one stream."""
    wanted = round((30_000 if kind == "consume" else 2_500) * run_s)
    return _bounded(wanted, setting.size)


def next_count(setting: Setting, run_s: float, rate: float) -> int:
    """How many messages make a run of `run_s` at `rate` messages a second."""
    return _bounded(round(rate * run_s), setting.size)


def tells(count: int, seconds: float, following: int) -> bool:
    """Whether a first run says enough about the rate, or a longer one is worth its time."""
    return seconds >= _TELLING_S or following <= count


def _bounded(count: int, size: int) -> int:
    most = min(_MOST_MESSAGES, _RUN_BYTES // size)
    return max(min(count, most), min(_FEWEST_MESSAGES, most))


def estimate_s(chosen: Sequence[Group], *, latency_s: float, normalizer_s: float) -> float:
    """Roughly how long it will take, seconds."""
    brokers = {(group.setting.replicas, group.setting.sync) for group in chosen}
    total = len(brokers) * _BROKER_START_S + latency_s + normalizer_s
    for group in chosen:
        run_s = group.run_s + _OVERHEAD_S
        for case in group.cases:
            total += group.runs * run_s * min(2, len(case.tries))
            total += len(case.tries) * run_s
    return total
