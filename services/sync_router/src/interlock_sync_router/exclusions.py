"""What lately did not work, and until when it is not tried again. Pure.

Each exclusion has an end, which moves out with every failure. What failed at a source keeps the
node from that source alone; what failed at the node keeps the artifact from it.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from interlock_schemas.orders import Failure, FailureCode
from interlock_sync_router.world import Exclusion

__all__ = ["FINAL", "GIVEN_UP_AFTER", "Exclusions", "Failed"]

_BASE_S: Final = 5.0
_CAP_S: Final = 900.0
#: A failure so old does not make the next one's exclusion longer, seconds.
_FORGOTTEN_S: Final = 3_600.0

#: No later attempt succeeds by itself: somebody has to do something at the node.
FINAL: Final[frozenset[FailureCode]] = frozenset(("no_space", "denied", "refused_name"))
#: They last longer from the beginning, seconds.
_FINAL_S: Final = 60.0
#: So often an order may fail for something that passes before a request counts it as failed.
GIVEN_UP_AFTER: Final = 5

_AT_SOURCE: Final[frozenset[FailureCode]] = frozenset(("source_gone", "source_damaged"))


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """How often an order failed lately, and how the last time."""

    times: int
    at: float
    until: float
    failure: Failure

    @property
    def exclusion_is_of_source(self) -> bool:
        """Whether another source may be tried meanwhile."""
        return self.failure.source is not None and self.failure.code in _AT_SOURCE

    @property
    def given_up(self) -> bool:
        """Whether whoever waits for it need not wait on."""
        return self.failure.code in FINAL or self.times >= GIVEN_UP_AFTER


class Exclusions:
    """What is excluded, by node and artifact."""

    def __init__(self) -> None:
        self._failed: dict[tuple[str, str], Failed] = {}

    def note(self, node: str, artifact: str, failure: Failure, at: float) -> bool:
        """An order failed at `at`, epoch seconds; False where that was noted already."""
        key = (node, artifact)
        before = self._failed.get(key)
        if before is not None and before.failure == failure:
            return False
        times = before.times + 1 if before is not None and at - before.at < _FORGOTTEN_S else 1
        base_s = _FINAL_S if failure.code in FINAL else _BASE_S
        until = at + min(_CAP_S, base_s * 2.0 ** min(times - 1, 20))
        self._failed[key] = Failed(times=times, at=at, until=until, failure=failure)
        return True

    def of(self, node: str, artifact: str) -> Failed | None:
        """What failed there lately; None: nothing, or nothing since it worked."""
        return self._failed.get((node, artifact))

    def worked(self, node: str, artifact: str) -> None:
        """It is there: nothing is held against it any more."""
        self._failed.pop((node, artifact), None)

    def standing(self, now: float) -> tuple[Exclusion, ...]:
        """What is not to be tried now."""
        return tuple(
            Exclusion(
                node=node,
                artifact=artifact,
                source=each.failure.source if each.exclusion_is_of_source else None,
                until=each.until,
                why=f"{each.failure.code}: {each.failure.text}",
            )
            for (node, artifact), each in self._failed.items()
            if each.until > now
        )

    def ended(self, since: float, now: float) -> Iterator[str]:
        """Artifacts of which an exclusion ended between."""
        return (
            artifact for (_, artifact), each in self._failed.items() if since < each.until <= now
        )

    def next_end(self, now: float) -> float | None:
        """When the next one ends."""
        return min((each.until for each in self._failed.values() if each.until > now), default=None)

    def forget(self, now: float) -> None:
        """What failed long ago is not kept."""
        for key in [k for k, v in self._failed.items() if now - v.until > _FORGOTTEN_S]:
            del self._failed[key]
