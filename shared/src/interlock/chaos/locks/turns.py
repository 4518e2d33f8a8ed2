"""Rules over what the clients say: belief, tokens, and that everybody is answered. Pure.

A client rests on a lock from the line in which it says so until the first of: it is about to give
it back; it was told that it lost it; the last line of its life, when it was killed; and the time at
which its lease, as it last said, ends by itself. That last time counts also where the process was
frozen and could not write a line: when it goes on, its lease must say no before anything else, and
what it writes all the same is for the fence to refuse. By the clock that all processes of a machine
share, no more clients may rest on a lock at once than it has slots: a lease ends at its client
before it ends at the broker.

Between two clients of a lock, when one asked after the other had been told that it holds, the later
one has the higher token. No two have the same, and the message of a token's sequence is the grant.

Whoever asked is told, by the deadline it gave: that it holds, or that it does not.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from interlock.chaos.locks.claims import History
from interlock.chaos.locks.findings import Finding, Windows
from interlock.chaos.locks.lines import (
    Ask,
    Believe,
    Held,
    Line,
    Lost,
    NotHeld,
    Release,
    Released,
    Started,
    Write,
    Written,
)
from interlock.chaos.locks.records import ClaimSet
from interlock_schemas.subjects import token as subject_token

__all__ = ["MARGIN_S", "Turn", "judge", "turns_of"]

#: What a call may take beyond its deadline, seconds: the machine is shared.
MARGIN_S: Final = 10.0


class Turn(msgspec.Struct, kw_only=True):
    """One client's way with one lock, from the question to the release."""

    process: str
    ask: Ask
    held: Held | None = None
    not_held: NotHeld | None = None
    until: float = 0.0
    """When its lease ends by itself, as it last said."""
    lost: Lost | None = None
    release: Release | None = None
    released: Released | None = None
    writes: list[tuple[Write, Written | None]] = []
    life_end: float = 0.0
    """The last line of its process's life."""
    last_life: bool = False
    """Whether its process went on until it was asked to end."""

    @property
    def rests(self) -> tuple[float, float]:
        """When it rested on the lock. Only for one that held."""
        assert self.held is not None  # noqa: S101 - the caller's duty
        ends = [self.until, self.life_end]
        if self.release is not None:
            ends.append(self.release.at)
        if self.lost is not None:
            ends.append(self.lost.at)
        return self.held.at, min(ends)


def turns_of(
    ledgers: Mapping[str, Sequence[Line]], killed: frozenset[str] = frozenset()
) -> list[Turn]:
    """What all processes wrote, turn by turn. ``killed``: those whose last life was not to end."""
    found: list[Turn] = []
    for process, lines in ledgers.items():
        life: dict[str, Turn] = {}
        end = 0.0
        for line in lines:
            if isinstance(line, Started):
                _close(life, end)
                life = {}
            elif isinstance(line, Ask):
                turn = life[line.op] = Turn(process=process, ask=line, writes=[])
                found.append(turn)
            elif line.op in life:
                _take(life[line.op], line)
            end = line.at
        _close(life, end)
        for turn in life.values():
            turn.last_life = process not in killed
    return found


def _close(life: Mapping[str, Turn], end: float) -> None:
    for turn in life.values():
        turn.life_end = end


def _take(turn: Turn, line: Line) -> None:
    match line:
        case Held():
            turn.held = line
            turn.until = line.until
        case NotHeld():
            turn.not_held = line
        case Believe():
            turn.until = max(turn.until, line.until)
        case Lost():
            turn.lost = turn.lost or line
        case Release():
            turn.release = line
        case Released():
            turn.released = line
        case Write():
            turn.writes.append((line, None))
        case Written():
            for index, (write, result) in enumerate(turn.writes):
                if write.store == line.store and result is None:
                    turn.writes[index] = (write, line)
                    break


def judge(
    turns: Sequence[Turn],
    history: History,
    frozen: Mapping[str, Windows],
    *,
    nobody_times_out: bool,
) -> list[Finding]:
    """What is wrong with them.

    ``frozen``: when each process was. ``nobody_times_out``: the broker stood all the time, so that
    not getting the lock in time is one lost waiter.
    """
    found: list[Finding] = []
    by_lock: dict[str, list[Turn]] = {}
    for turn in turns:
        by_lock.setdefault(turn.ask.lock, []).append(turn)
        found += _answered(turn, frozen, nobody_times_out=nobody_times_out)
    for lock, all_of in by_lock.items():
        holds = [turn for turn in all_of if turn.held is not None]
        found += _overlaps(lock, holds)
        found += _tokens(lock, holds, history)
    return found


def _overlaps(lock: str, holds: Sequence[Turn]) -> Iterable[Finding]:
    """More than may rest on it at once. Touching is no overlap."""
    resting: list[tuple[float, int, Turn]] = []
    for number, turn in enumerate(sorted(holds, key=lambda turn: turn.rests)):
        start, end = turn.rests
        if end <= start:
            continue
        while resting and resting[0][0] <= start:
            heapq.heappop(resting)
        if len(resting) >= turn.ask.slots:
            others = ", ".join(
                f"{other.ask.op} (token {other.held.token if other.held else 0}, until {until:.3f})"
                for until, _, other in resting
            )
            yield Finding("overlap", lock, f"{_who(turn)} rests on it together with {others}")
        heapq.heappush(resting, (end, number, turn))


def _tokens(lock: str, holds: Sequence[Turn], history: History) -> Iterable[Finding]:
    holders: dict[int, Turn] = {}
    by_held = sorted(holds, key=lambda turn: turn.held.at if turn.held else 0.0)
    told = 0
    highest: Turn | None = None
    for turn in sorted(holds, key=lambda turn: turn.ask.at):
        token = _token(turn)
        while told < len(by_held) and _held_at(by_held[told]) < turn.ask.at:
            if highest is None or _token(by_held[told]) > _token(highest):
                highest = by_held[told]
            told += 1
        if highest is not None and token <= _token(highest):
            yield Finding("token", lock, f"{_who(turn)} asked after {_who(highest)} held")
        other = holders.setdefault(token, turn)
        if other is not turn:
            yield Finding("token", lock, f"{_who(turn)} has the token of {_who(other)}")
        record = history.get(token)
        if record is None:
            if token > 0 and not history.missed(token):
                yield Finding("token", lock, f"{_who(turn)}: nothing was stored at its token")
        elif not (
            isinstance(record, ClaimSet)
            and (record.lock, record.id) == (subject_token(lock), turn.held and turn.held.id)
            and record.state == "held"
        ):
            yield Finding("token", lock, f"{_who(turn)}: something else was stored at its token")


def _answered(
    turn: Turn, frozen: Mapping[str, Windows], *, nobody_times_out: bool
) -> Iterable[Finding]:
    lock = turn.ask.lock
    answer = turn.held or turn.not_held
    if answer is None:
        if turn.last_life:
            yield Finding("unanswered", lock, f"{turn.ask.op} asked at {turn.ask.at:.3f}")
        return
    windows = frozen.get(turn.process, Windows(()))
    took_s = windows.outside_s(turn.ask.at, answer.at)
    if took_s > turn.ask.wait_s + MARGIN_S:
        yield Finding(
            "unanswered", lock, f"{turn.ask.op} was told {took_s:.1f} s after it asked, at "
            f"{turn.ask.at:.3f}; it wanted to wait {turn.ask.wait_s:g} s",
        )  # fmt: skip
    elif nobody_times_out and isinstance(answer, NotHeld):
        yield Finding(
            "unanswered", lock, f"{turn.ask.op} waited in vain, {answer.why}: {answer.text}"
        )


def _token(turn: Turn) -> int:
    return turn.held.token if turn.held is not None else 0


def _held_at(turn: Turn) -> float:
    return turn.held.at if turn.held is not None else 0.0


def _who(turn: Turn) -> str:
    return f"{turn.ask.op} (token {_token(turn)}, held at {_held_at(turn):.3f})"
