"""What the demo's workers publish, and the end that each message must come to. Pure.

Every process of the demo makes the same script from the same seed, so nothing has to be passed
around but a number.
"""

import random
from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from interlock_schemas import envelope, legacy, subjects
from interlock_schemas.letters import Code

__all__ = ["CONSUMER", "MAPPED_NAME", "MAPPED_TYPE", "Item", "script"]

#: The durable name of the demo's consumer.
CONSUMER: Final = "demo-consumer"
#: A name that nobody knows, until the demo maps it.
MAPPED_NAME: Final = "mystery_model_cooked"
MAPPED_TYPE: Final = "model.promoted"
_STRANGE_NAMES: Final = ("frobnication_over", "weights_levitated")

_CONFIGS: Final = ("hex8_2p", "hex8_3p", "square8_2p", "square19_4p")
_NODES: Final = ("gpu-1", "gpu-2", "spot-17", "vast-4")
_BROKEN: Final = (
    b'{"event_type": "training_complete", "payload": {"loss": NaN}}',
    b'{"event_type": "selfplay_complete", ',
    b"\xff\xfe\x00 not even text",
    b"config_key=hex8_2p",
)

Kind = Literal["canonical", "legacy", "unknown", "broken", "misshapen"]
Failing = Literal["never", "once", "until_fixed", "always"]


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the script."""

    id: str
    """The broker's message id; what the ledger follows it by."""
    kind: Kind
    subject: str
    body: bytes
    type: str | None
    """The canonical type that it is, or becomes; None where it never is one."""
    code: Code | None = None
    """The code of its dead letter, where it becomes one."""
    failing: Failing = "never"
    """What the demo's handler does with it."""

    @property
    def event_id(self) -> str:
        """The id of the canonical event: its own, or the one that the normalizer gives it."""
        return self.id if self.kind == "canonical" else envelope.canonical_id(self.id, self.body)


def _spellings() -> list[tuple[str, str]]:
    """Every spelling of the table, as it stands and in other cases, with its type."""
    found: list[tuple[str, str]] = []
    for change in (str, str.upper, str.lower, lambda name: name.replace("_", "-")):
        found += [(change(name), rule.type) for name, rule in legacy.known_names()]
    return list(dict.fromkeys(found))


def script(count: int, seed: int) -> Iterator[Item]:
    """The messages, in order."""
    rand = random.Random(seed)  # noqa: S311  # a reproducible mix, no secret
    spellings = _spellings()
    spelled = 0
    for number in range(count):
        id = f"demo-{seed:x}-{number}"
        config, node = rand.choice(_CONFIGS), rand.choice(_NODES)
        lot = rand.random()
        if lot < 0.36:
            yield _canonical(id, config, node, rand)
        elif lot < 0.40:
            yield _unknown(id, config, rand)
        elif lot < 0.43:
            subject = subjects.legacy(rand.choice(("training_complete", "worker_output")))
            yield Item(
                id=id, kind="broken", subject=subject, body=rand.choice(_BROKEN),
                type=None, code=Code.UNDECODABLE,
            )  # fmt: skip
        elif lot < 0.46:
            yield _misshapen(id, rand)
        else:
            name, type_name = spellings[spelled % len(spellings)]
            spelled += 1
            yield _legacy(id, name, type_name, config, node, rand)


def _failing(rand: random.Random) -> Failing:
    lot = rand.random()
    if lot < 0.03:
        return "until_fixed"
    if lot < 0.05:
        return "once"
    return "always" if lot < 0.06 else "never"


def _canonical(id: str, config: str, node: str, rand: random.Random) -> Item:
    type_name, fields = rand.choice(
        (
            ("training.completed", {"model": f"v{rand.randrange(99)}", "final_loss": 0.41}),
            ("selfplay.completed", {"games": rand.randrange(1, 500)}),
            ("evaluation.completed", {"model": f"v{rand.randrange(99)}", "elo": 1512.5}),
        )
    )
    failing = _failing(rand)
    payload = {"config": config, "node": node, **fields, "demo": failing}
    code = Code.HANDLER_FAILED if failing in ("until_fixed", "always") else None
    return Item(
        id=id, kind="canonical", subject=subjects.event(type_name, config),
        body=msgspec.json.encode(payload), type=type_name, code=code, failing=failing,
    )  # fmt: skip


def _legacy(
    id: str, name: str, type_name: str, config: str, node: str, rand: random.Random
) -> Item:
    """An old worker's event, in one of the ways in which old workers send theirs."""
    failing = _failing(rand)
    payload = {"config_key": config, "node_id": node, "demo": failing}
    style = rand.randrange(5)
    subject = "legacy.events"
    content: dict[str, object]
    if style == 0:
        content = {"event_type": name, "payload": payload, "source": "old-worker"}
    elif style == 1:
        content = {"type": name, "data": payload}
    elif style == 2:
        content = {"event": name, **payload}
    elif style == 3:
        content = {"name": name, "payload": payload}
    else:
        subject, content = subjects.legacy(name), dict(payload)
    code = Code.HANDLER_FAILED if failing in ("until_fixed", "always") else None
    return Item(
        id=id, kind="legacy", subject=subject, body=msgspec.json.encode(content),
        type=type_name, code=code, failing=failing,
    )  # fmt: skip


def _unknown(id: str, config: str, rand: random.Random) -> Item:
    mapped = rand.random() < 0.7
    name = MAPPED_NAME if mapped else rand.choice(_STRANGE_NAMES)
    content = {"event_type": name, "payload": {"config_key": config, "demo": "never"}}
    return Item(
        id=id, kind="unknown", subject="legacy.events", body=msgspec.json.encode(content),
        type=MAPPED_TYPE if mapped else None, code=Code.UNKNOWN_NAME,
    )  # fmt: skip


def _misshapen(id: str, rand: random.Random) -> Item:
    content: object = rand.choice(
        (
            {"event_type": "TRAINING_COMPLETED", "payload": {"config_key": 7}},
            {"event_type": "TRAINING_COMPLETED", "payload": {"final_loss": 0.5}},
            {"event_type": "training_complete", "payload": ["hex8_2p"]},
            {"type": "selfplay_complete", "data": "forty games"},
        )
    )
    return Item(
        id=id, kind="misshapen", subject="legacy.events", body=msgspec.json.encode(content),
        type=None, code=Code.INVALID,
    )  # fmt: skip
