"""What the clients of locks write into their ledgers, and what a fenced file keeps. Pure.

One line before each step that may not return, one after it. All times are seconds on a clock that
the processes of one machine share, frozen or not (CLOCK_MONOTONIC).
"""

from typing import Literal

import msgspec

from interlock.chaos.lines import Started

__all__ = [
    "Ask",
    "Believe",
    "Held",
    "Line",
    "Lost",
    "NotHeld",
    "Release",
    "Released",
    "Started",
    "Store",
    "Write",
    "Written",
]

#: Which store is written: one whose fence is asked by the writer, and the broker's own.
Store = Literal["file", "kv"]


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag="ask"):
    """A lock is about to be asked for."""

    at: float
    op: str
    """Names this turn, in all ledgers."""
    lock: str
    wait_s: float
    """How long the call may take."""
    slots: int = 1
    level: int = 0
    """How urgent."""


class Held(msgspec.Struct, frozen=True, kw_only=True, tag="held"):
    """It was acquired: the client rests on it from here on."""

    at: float
    op: str
    id: str
    """Of the claim."""
    token: int
    until: float
    """When the client itself gives it up, if it does not renew it."""


class NotHeld(msgspec.Struct, frozen=True, kw_only=True, tag="not_held"):
    """The call ended without the lock."""

    at: float
    op: str
    why: Literal["busy", "timeout", "deadlock", "error"]
    text: str = ""


class Believe(msgspec.Struct, frozen=True, kw_only=True, tag="believe"):
    """The lease says that it holds, so long."""

    at: float
    op: str
    until: float


class Lost(msgspec.Struct, frozen=True, kw_only=True, tag="lost"):
    """The client learned that it holds no more."""

    at: float
    op: str
    why: str


class Write(msgspec.Struct, frozen=True, kw_only=True, tag="write"):
    """A value that was read under the lock is about to be written, one higher."""

    at: float
    op: str
    store: Store
    token: int
    value: int
    """What is written."""


class Written(msgspec.Struct, frozen=True, kw_only=True, tag="written"):
    """The write returned."""

    at: float
    op: str
    store: Store
    result: Literal["accepted", "refused", "unknown"]
    revision: int = 0
    """``kv``: the sequence of what was stored."""
    text: str = ""


class Release(msgspec.Struct, frozen=True, kw_only=True, tag="release"):
    """It is about to be given back: the client rests on it no more."""

    at: float
    op: str


class Released(msgspec.Struct, frozen=True, kw_only=True, tag="released"):
    """The release returned."""

    at: float
    op: str
    result: Literal["done", "lost", "unknown"] = "done"


Line = Started | Ask | Held | NotHeld | Believe | Lost | Write | Written | Release | Released
