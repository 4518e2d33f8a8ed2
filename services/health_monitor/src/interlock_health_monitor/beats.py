"""Heartbeats in: read, checked, and handed to the roster; what is none becomes a dead letter.

Called from the connection's read loop for every beat of every node, so nothing here waits.
"""

import time
from collections.abc import Callable
from typing import Final

import msgspec

from interlock.clock import now, rfc3339
from interlock.headers import parse as parse_headers
from interlock_health_monitor.attention import Attention
from interlock_health_monitor.roster import Roster
from interlock_health_monitor.suspicion import Policy
from interlock_health_monitor.telling import Teller
from interlock_schemas import envelope, health, letters, subjects
from interlock_schemas.letters import Code, DeadLetter
from interlock_schemas.nodes import LARGEST_BEAT_BYTES, Beat
from interlock_schemas.topology import LARGEST_MESSAGE_BYTES

__all__ = ["Beats"]

#: Letters about one node within a minute. More of the same are counted in the next one.
_MOST_LETTERS: Final = 5
_LETTERS_S: Final = 60.0
#: Nodes that are known by unreadable heartbeats alone. A flood of names must not fill memory.
_MOST_STRANGERS: Final = 1_000


class Beats:
    """The heartbeats of all nodes."""

    def __init__(
        self,
        roster: Roster,
        attention: Attention,
        policy: Policy,
        teller: Teller,
        leads: Callable[[], bool],
    ) -> None:
        self._roster = roster
        self._attention = attention
        self._policy = policy
        self._teller = teller
        self._leads = leads
        self._decode = msgspec.json.Decoder(Beat).decode
        self._names: dict[bytes, str] = {}
        self._strangers = 0
        self.heard = 0
        """Beats that were taken over."""
        self.refused = 0

    def on_message(self, subject: bytes, _: bytes, headers: bytes, body: bytes) -> None:
        """One message on ``heartbeat.<node>``."""
        name = self._names.get(subject)
        if name is None:
            name = subjects.parse_heartbeat(subject.decode("utf-8", "backslashreplace")) or "?"
            if len(self._names) < 100_000:
                self._names[bytes(subject)] = name
        if len(body) > LARGEST_BEAT_BYTES:
            why = f"{len(body):,} bytes: a heartbeat has at most {LARGEST_BEAT_BYTES:,}"
            self._refuse(name, subject, headers, body, Code.TOO_LARGE, why)
            return
        try:
            beat = self._decode(body)
        except (msgspec.ValidationError, RecursionError) as error:
            self._refuse(name, subject, headers, body, Code.INVALID, f"not a heartbeat: {error}")
            return
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._refuse(name, subject, headers, body, Code.UNDECODABLE, f"not JSON: {error}")
            return
        if beat.node != name:
            why = f"it says that it is of {beat.node!r}, on the subject of {name!r}"
            self._refuse(name, subject, headers, body, Code.INVALID, why)
            return
        at = self._attention.now_s
        self._roster.node(name, at).on_beat(beat, at, time.time(), self._policy)
        self.heard += 1

    def _refuse(
        self, name: str, subject: bytes, headers: bytes, body: bytes, code: Code, why: str
    ) -> None:
        """It cannot be read. Whoever sent it lives all the same, if it was heard of before."""
        self.refused += 1
        at = self._attention.now_s
        node = self._roster.get(name)
        if node is None:
            if self._strangers >= _MOST_STRANGERS or not _plausible(name):
                self._bury(subject, headers, body, code, why)
                return
            self._strangers += 1
            node = self._roster.node(name, at)
        node.unreadable = why
        node.facts.answered(at, self._policy)
        node.look(at, self._policy)
        if at - node.letters_since_s > _LETTERS_S:
            skipped = max(0, node.letters - _MOST_LETTERS)
            if skipped:
                why = f"{why} ({skipped} more from this node in the minute before)"
            node.letters, node.letters_since_s = 0, at
        node.letters += 1
        if node.letters <= _MOST_LETTERS:
            self._bury(subject, headers, body, code, why)

    def _bury(self, subject: bytes, headers: bytes, body: bytes, code: Code, why: str) -> None:
        if not self._leads():
            # The one that leads hears it too.
            return
        kept = body[:LARGEST_MESSAGE_BYTES]
        if len(kept) < len(body):
            why = f"{why}; only its first {len(kept):,} bytes are kept"
        found = parse_headers(headers) if headers else {}
        message_id = envelope.lookup(found, envelope.MSG_ID) or rfc3339(now())
        at = rfc3339(now())
        letter = DeadLetter(
            id=letters.letter_id(health.MONITOR, message_id, kept),
            code=code,
            reason=why[:1_000],
            service=health.MONITOR,
            consumer=health.MONITOR,
            message_id=message_id,
            subject=subject.decode("utf-8", "backslashreplace"),
            stream="",
            stream_seq=0,
            attempts=1,
            first_at=at,
            last_at=at,
            headers=dict(found),
            body=kept,
        )
        written, content = letters.write_letter(letter)
        self._teller.publish(subjects.dead(health.MONITOR, code.value), content, written)


def _plausible(name: str) -> bool:
    return 0 < len(name) <= 100 and name.isprintable() and " " not in name
