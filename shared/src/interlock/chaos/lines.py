"""The lines of a chaos run's ledgers: what publishers and consumers say of each event. Pure.

A publisher writes before each attempt and after each outcome; a consumer writes what it handled.
How they get into a file and out of it again is left to `interlock.chaos.ledger`. All times are
seconds on a clock that the processes of one machine share.
"""

from typing import Literal

import msgspec

__all__ = [
    "Attempt",
    "Effect",
    "Entered",
    "Left",
    "Line",
    "Outcome",
    "Started",
    "event_id",
]


class Started(msgspec.Struct, frozen=True, kw_only=True, tag="started"):
    """A process began its work, for the first time or again."""

    at: float


class Attempt(msgspec.Struct, frozen=True, kw_only=True, tag="attempt"):
    """A publish is about to be tried."""

    at: float
    key: str
    seq: int
    deadline_s: float
    """How long the call may take at most."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True, tag="outcome"):
    """A publish returned."""

    at: float
    key: str
    seq: int
    result: Literal["acknowledged", "unknown"]
    stream_seq: int = 0


class Effect(msgspec.Struct, frozen=True, kw_only=True, tag="effect"):
    """A handler did what the event asks for, or found that it was done."""

    at: float
    id: str
    attempt: int
    """Number of the delivery."""
    done: bool = True
    """False: it had been done before, by an earlier delivery."""


class Entered(msgspec.Struct, frozen=True, kw_only=True, tag="entered"):
    """A handler of events in order began with one."""

    at: float
    key: str
    seq: int
    attempt: int


class Left(msgspec.Struct, frozen=True, kw_only=True, tag="left"):
    """It ended."""

    at: float
    key: str
    seq: int


Line = Started | Attempt | Outcome | Effect | Entered | Left


def event_id(key: str, seq: int) -> str:
    """The id of one event: key and number in it."""
    return f"{key}.{seq}"
