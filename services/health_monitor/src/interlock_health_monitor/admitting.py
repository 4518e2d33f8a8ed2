"""Answers whether something heavy may be started on a node, and reserves what it promises.

Reservations are records with a time to live in the bucket of health. They are written on the
condition that nothing else was reserved on the node in between, so that two who ask at once, of one
monitor or of two, are not promised the same.
"""

import secrets
import time
from collections.abc import Callable
from typing import Final

import msgspec

from interlock.bus import ApiError, Bus, Write
from interlock.clock import now
from interlock.conditional import expecting, living
from interlock.errors import CommandFailed, WrongRevision
from interlock.kv import decode_message
from interlock_health_monitor import admission, instants
from interlock_health_monitor.roster import Roster
from interlock_schemas import health
from interlock_schemas.health import Admission, Admit, ClusterHealth, Reservation
from interlock_schemas.topology import HEALTH

__all__ = ["Gate"]

_ROUNDS: Final = 20


class Gate:
    """Admission on one monitor."""

    def __init__(
        self, bus: Bus, roster: Roster, cluster: Callable[[], ClusterHealth | None]
    ) -> None:
        self._bus = bus
        self._roster = roster
        self._cluster = cluster

    async def admit(self, asked: Admit) -> Admission:
        """Yes, or no with the reason."""
        id = asked.id or secrets.token_hex(8)
        asked = msgspec.structs.replace(asked, id=id)
        for _ in range(_ROUNDS):
            standing, last = await self._reserved(asked.node)
            answer = self._decide(asked, standing)
            reserved = admission.reservation(asked, answer, id)
            if reserved is None:
                return answer
            left = instants.seconds_until(reserved.until, now()) or 1.0
            write = Write(
                HEALTH.key_subject(health.reservation_key(asked.node, id)),
                msgspec.json.encode(reserved),
                {
                    **living(max(1, round(left))),
                    **expecting(last, health.reservation_group(asked.node)),
                },
            )
            try:
                await self._bus.commit([write], timeout_s=5.0)
            except WrongRevision:
                continue
            return answer
        raise CommandFailed(f"too many ask for {asked.node} at once: ask again", code="503")

    def _decide(self, asked: Admit, standing: list[Reservation]) -> Admission:
        node = self._roster.get(asked.node)
        beat = node.beat if node is not None else None
        if node is None:
            return admission.decide(
                asked,
                record=None,
                health=None,
                beat=None,
                beat_age_s=None,
                cluster=self._cluster(),
                now=now(),
            )
        return admission.decide(
            asked,
            record=node.record,
            health=node.health,
            beat=beat,
            beat_age_s=max(0.0, time.time() - node.beat_at) if beat is not None else None,
            reservations=standing,
            cluster=self._cluster(),
            limits=node.limits,
            now=now(),
        )

    async def _reserved(self, node: str) -> tuple[list[Reservation], int]:
        """What is reserved on a node, and the sequence of the last of it."""
        found: list[Reservation] = []
        last = 0
        seq = 1
        while True:
            try:
                answer = await self._bus.api(
                    f"STREAM.MSG.GET.{HEALTH.stream}",
                    {"seq": seq, "next_by_subj": health.reservation_group(node)},
                )
            except ApiError as error:
                if error.code == 404:
                    return found, last
                raise
            message = answer["message"]
            headers, body = decode_message(message)
            last = int(message["seq"])
            seq = last + 1
            if body and "KV-Operation" not in headers:
                try:
                    found.append(msgspec.json.decode(body, type=Reservation))
                except msgspec.DecodeError as error:
                    raise CommandFailed(
                        f"a reservation on {node} cannot be read: {error}", code="500"
                    ) from error
