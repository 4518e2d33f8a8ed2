"""Holds the lease that makes a node a member, and sees to it that the node is described.

The broker ends the lease by itself where nobody renews it; every write names the one before, so
that two agents of one name are never members at once. What is decided is in `lease`.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from interlock import logs
from interlock.bus import Bus
from interlock.conditional import PURGE, Write, expecting, living
from interlock.errors import (
    BusUnavailable,
    InterlockError,
    LeaseLost,
    PublishRefused,
    WrongRevision,
)
from interlock.kv import Entry, Store
from interlock_node_agent.lease import Presence, judge, refusal
from interlock_schemas import subjects
from interlock_schemas.nodes import (
    AGENT,
    Member,
    NodeRecord,
    Probe,
    member_key,
    node_key,
)
from interlock_schemas.topology import MEMBERS, NODES

__all__ = ["Membership", "NodeTaken", "describe"]

_PROBE_S: Final = 1.0
#: An agent on another host may just be between two connections: it is asked more than once.
_ASKED_TIMES: Final = 3
_BETWEEN_S: Final = 0.4
_COMMIT_S: Final = 5.0
_RETRY_S: Final = 0.3

log = logs.get_logger("interlock.agent.membership")


class NodeTaken(InterlockError):
    """Another agent stands for the node."""


async def describe(bus: Bus, record: NodeRecord) -> bool:
    """Describe a node that nobody has described yet; whether it was us.

    What stands is left as it is: operators may have written it.
    """
    store = Store(bus, NODES)
    entry = await store.get(node_key(record.name))
    if entry.value is not None:
        return False
    try:
        await store.put(entry.key, msgspec.json.encode(record), revision=entry.revision)
    except WrongRevision:
        return False
    return True


class Membership:
    """The lease of one node. `take` it, `run` renews it, `give_back` ends it."""

    def __init__(self, bus: Bus, member: Member, *, ttl_s: int) -> None:
        self.member = member
        self._bus = bus
        self._ttl_s = ttl_s
        self._store = Store(bus, MEMBERS)
        self._key = member_key(member.node)
        self._revision: int | None = None
        #: What reads and writes the lease takes turns.
        self._turn = asyncio.Lock()
        self._over = False

    async def take(self, answer: Callable[[bool], Awaitable[None]]) -> None:
        """Become a member. Raises NodeTaken while another agent stands for the node.

        `answer` has probes of the node answered from now on, or not: before the lease stands, so
        that nobody takes us for gone; and not before others were asked.
        """
        while True:
            entry = await self._store.get(self._key)
            standing = _read(entry)
            verdict = judge(standing, self.member.instance, None)
            if verdict == "ask" and standing is not None:
                presence = await self._presence(standing)
                verdict = judge(standing, self.member.instance, presence)
                if verdict == "refuse":
                    raise NodeTaken(refusal(standing, presence, self._ttl_s))
                log.info("its last agent is gone", node=standing.node, was=standing.instance)
            if verdict == "ours":
                self._revision = entry.revision
                return
            await answer(True)
            if await self._write(entry.revision):
                return
            await answer(False)
            await asyncio.sleep(_RETRY_S)

    async def run(self) -> None:
        """Renew it for ever. Raises LeaseLost when another agent stands for the node."""
        while True:
            # Not all at the same moment, where thousands began together.
            await asyncio.sleep(self._ttl_s / 3 * random.uniform(0.8, 1.0))  # noqa: S311
            settled = await self._renew()
            while not settled:
                await asyncio.sleep(_RETRY_S)
                settled = await self._renew()

    async def give_back(self, timeout_s: float) -> None:
        """End it. Where the broker cannot be reached, it ends by itself."""
        self._over = True
        try:
            async with asyncio.timeout(timeout_s), self._turn:
                revision, self._revision = self._revision, None
                if revision is None:
                    return
                headers = {**living(MEMBERS.marker_ttl_s), **PURGE, **expecting(revision)}
                await self._bus.commit(
                    [Write(MEMBERS.key_subject(self._key), b"", headers)], timeout_s=timeout_s
                )
        except WrongRevision:
            # It was somebody else's by then, or an attempt without answer did it.
            pass
        except (TimeoutError, BusUnavailable, PublishRefused) as error:
            log.warning("the lease could not be ended: it runs out", why=str(error))

    async def _renew(self) -> bool:
        """Renew it once; whether that is settled."""
        async with self._turn:
            return self._over or await self._renew_in_turn()

    async def _renew_in_turn(self) -> bool:
        if self._revision is None:
            return True
        try:
            if await self._write(self._revision):
                return True
            entry = await self._store.get(self._key)
        except BusUnavailable as error:
            log.warning("the lease could not be renewed, trying on", why=str(error))
            return False
        standing = _read(entry)
        verdict = judge(standing, self.member.instance, None)
        if verdict == "ours":
            self._revision = entry.revision
            return True
        if verdict == "take":
            # It ran out while we were away or frozen, and nobody took our place.
            log.info("the lease had run out, taking it again", node=self.member.node)
            return await self._write(entry.revision)
        if standing is not None:
            raise LeaseLost(
                f"agent {standing.instance} on host {standing.host or 'unknown'} stands for node "
                f"{self.member.node} now; this one, {self.member.instance}, ends. Two hosts must "
                "not have one name: give one of them another with INTERLOCK_NODE"
            )
        return False

    async def _write(self, last: int) -> bool:
        """Write our lease after what stood at `last`; False where something else stands."""
        headers = {**living(self._ttl_s), **expecting(last)}
        body = msgspec.json.encode(self.member)
        try:
            ack = await self._bus.commit(
                [Write(MEMBERS.key_subject(self._key), body, headers)], timeout_s=_COMMIT_S
            )
        except WrongRevision:
            return False
        if ack.seq == 0:
            # The broker had stored an attempt before, and does not say where.
            self._revision = (await self._store.get(self._key)).revision
        else:
            self._revision = ack.seq
        return True

    async def _presence(self, standing: Member) -> Presence:
        """Whether the agent that holds the lease is there."""
        times = 1 if standing.host == self.member.host else _ASKED_TIMES
        for attempt in range(times):
            if attempt:
                await asyncio.sleep(_BETWEEN_S)
            loop = asyncio.get_running_loop()
            began = loop.time()
            try:
                await self._bus.request(
                    subjects.probe(standing.node),
                    msgspec.json.encode(Probe(by=AGENT)),
                    timeout_s=_PROBE_S,
                )
            except BusUnavailable:
                # That nobody listens, the broker says at once.
                if loop.time() - began >= _PROBE_S:
                    return "silent"
            else:
                return "answers"
        return "nobody"


def _read(entry: Entry) -> Member | None:
    if entry.value is None:
        return None
    try:
        return msgspec.json.decode(entry.value, type=Member)
    except (msgspec.DecodeError, RecursionError):
        # Not an agent's: it may be replaced.
        return None
