"""Bugs to put in, to prove that the checker finds them. No product has a switch for them.

A process of a run that is started with one changes the code that it has loaded, and nothing else
has it.
"""

import asyncio
import contextlib
import importlib
import random
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec

from interlock.bus import Ack, Bus, Write
from interlock.conditional import PURGE
from interlock.errors import InterlockError
from interlock.locks.fence import FileFence, Guard
from interlock.locks.holding import Hold
from interlock.locks.lease import Lease
from interlock.locks.locker import Locker
from interlock_schemas import locks
from interlock_schemas.locks import Claim
from interlock_schemas.topology import LOCKS

__all__ = ["SERVICE_MODULE", "Plant", "plant"]

#: Where the service hands over.
SERVICE_MODULE: Final = "interlock_sync_mutex.service"

#: How long the lock is nobody's in the middle of a hand-over in two steps, seconds, at most.
_BETWEEN_S: Final = 0.02


class Plant(StrEnum):
    """Which bug."""

    UNFENCED = "unfenced"
    """Stores take any token: neither the fence of files nor the broker is asked."""
    BLIND_RENEWAL = "blind-renewal"
    """A holder renews whatever has become of its lease, and rests on it."""
    TWO_STEP = "two-step"
    """The service ends the old hold, and then makes the new one, without a condition."""


def plant(which: Plant) -> None:
    """Put the bug into this process."""
    _PLANTS[which]()


def _unfenced() -> None:
    @contextlib.contextmanager
    def guard(self: FileFence, resource: str, token: int, **_: Any) -> Iterator[Guard]:
        del self
        yield Guard(resource, token, -1)

    async def put(self: Lease, key: str, value: bytes, *, timeout_s: float = 10.0) -> int:
        bus = self._locker.bus
        write = Write(LOCKS.key_subject(locks.state_key(key)), value)
        return (await bus.commit([write], timeout_s=timeout_s)).seq

    _replace(FileFence, guard=guard)
    _replace(Lease, put=put)


def _blind_renewal() -> None:
    async def renew(
        self: Locker, claim: Claim, id: str, token: int, revision: int, held_ns: int,
        timeout_s: float,
    ) -> int:  # fmt: skip
        del revision
        record = msgspec.structs.replace(
            claim, state="held", token=token, held_ns=held_ns, offered=False
        )
        headers = {"Nats-TTL": f"{_ttl_s(claim)}s"}
        write = Write(locks.claim_subject(claim.name, id), msgspec.json.encode(record), headers)
        return (await self.bus.commit([write], timeout_s=timeout_s)).seq

    def renewed(self: Hold, sent: float, acked: float) -> Hold:
        del acked
        return msgspec.structs.replace(self, sent=sent)

    _replace(Locker, _renew=renew)
    _replace(Hold, renewed=renewed)
    _replace(Lease, _ran_out=lambda _: None, check=lambda _: None)


def _ttl_s(claim: Claim) -> int:
    """The broker's time to live for a claim, seconds."""
    return max(1, -int(-claim.ttl_s // 1))


def _two_step() -> None:
    # By name, because this kit depends on no service. Where it hands over otherwise by then, this
    # fails rather than planting nothing.
    service = importlib.import_module(SERVICE_MODULE)
    if not callable(getattr(service, "handed_over", None)):
        raise InterlockError(f"{SERVICE_MODULE}.handed_over is gone: plant two-step anew")
    service.__dict__["handed_over"] = lambda _: None
    whole = Bus.commit

    async def commit(self: Bus, writes: Sequence[Write], *, timeout_s: float = 10.0) -> Ack:
        steps = _in_steps(writes)
        for write in steps[:-1]:
            await whole(self, [write], timeout_s=timeout_s)
            await asyncio.sleep(random.uniform(0, _BETWEEN_S))  # noqa: S311
        return await whole(self, steps[-1:], timeout_s=timeout_s)

    _replace(Bus, commit=commit)


def _in_steps(writes: Sequence[Write]) -> list[Write]:
    """The writes one by one; what is handed over in one message as an end and a grant."""
    (last,) = writes[-1:]
    if len(writes) == 1 and b'"after"' in last.body and b'"offered"' in last.body:
        claim = msgspec.json.decode(last.body, type=Claim)
        end = Write(locks.claim_subject(claim.name, claim.after), b"", {**PURGE, "Nats-TTL": "1s"})
        grant = msgspec.structs.replace(claim, after="")
        ttl = {"Nats-TTL": last.headers["Nats-TTL"]}
        return [end, Write(last.subject, msgspec.json.encode(grant), ttl)]
    return list(writes)


def _replace(kind: type, **methods: Any) -> None:
    for name, method in methods.items():
        setattr(kind, name, method)


_PLANTS: Final[dict[Plant, Callable[[], None]]] = {
    Plant.UNFENCED: _unfenced,
    Plant.BLIND_RENEWAL: _blind_renewal,
    Plant.TWO_STEP: _two_step,
}
