"""The checker of lock histories can fail: each defect, fed to it, is found and named.

A model of the lock bucket plays right histories, drawn by hypothesis; rules that a step breaks on
purpose are then found, and nothing is found where nothing was broken, also where the observer
missed messages.
"""

import random
from collections.abc import Callable
from typing import Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.chaos.locks.checker import Found, Fresh, Verdict, check
from interlock.chaos.locks.claims import SLACK_S, History
from interlock.chaos.locks.findings import Kind, Window, Windows
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
    Store,
    Write,
    Written,
)
from interlock.chaos.locks.records import (
    ClaimEnd,
    ClaimSet,
    Other,
    Record,
    StateSet,
    Value,
    decode,
)
from interlock_schemas.locks import Claim

TTL_S = 2.0
FIRST = 1_000_000
NS = 1_000_000_000
STORES: tuple[Store, ...] = ("file", "kv")


class Asker(msgspec.Struct):
    """A client in the middle of its turn."""

    op: str
    process: str
    lock: str
    level: int
    slots: int
    token: int = 0
    turn: tuple[int, int] = (0, 0)
    arrived: tuple[int, int] = (0, 0)


class Model:
    """A bucket and its clients, step by step and by the rules, unless a step says otherwise."""

    def __init__(self, *, slots: int = 1) -> None:
        self.slots = slots
        self.now = 100.0
        self.seq = FIRST - 1
        self.records: list[Record] = []
        self.ledgers: dict[str, list[Line]] = {}
        self.files: dict[str, list[Value]] = {}
        self.values: dict[str, int] = {}
        self.waiting: dict[str, list[Asker]] = {}
        self.holding: dict[str, list[Asker]] = {}
        self.ops = 0

    def tick(self, seconds: float = 0.01) -> float:
        self.now += seconds
        return self.now

    def line(self, process: str, line: Line) -> None:
        self.ledgers.setdefault(process, [Started(at=self.now)]).append(line)

    def put(self, asker: Asker, state: Literal["waiting", "held"], token: int | None = None) -> int:
        """A record of its claim; its sequence."""
        self.seq += 1
        if asker.arrived == (0, 0):
            asker.arrived = int(self.now * NS), self.seq
            asker.turn = asker.arrived[0] - asker.level * 30 * NS, self.seq
        if state == "held" and token is None:
            asker.token = self.seq
        self.records.append(
            ClaimSet(
                seq=self.seq, at=self.now, lock=asker.lock, id=asker.op, state=state,
                token=(token or self.seq) if state == "held" else 0,
                arrived_ns=asker.arrived[0], arrived_seq=asker.arrived[1],
                level=asker.level, slots=asker.slots, ttl_s=TTL_S, op=asker.op,
            )
        )  # fmt: skip
        return self.seq

    def end(self, asker: Asker, *, expired: bool = False) -> None:
        self.seq += 1
        self.records.append(
            ClaimEnd(seq=self.seq, at=self.now, lock=asker.lock, id=asker.op, expired=expired)
        )

    def ask(self, process: str, lock: str = "a", level: int = 2, *, barge: bool = False) -> Asker:
        """Ask; held at once where it is free."""
        self.tick()
        self.ops += 1
        asker = Asker(f"{process}.{self.ops}", process, lock, level, self.slots)
        self.line(
            process,
            Ask(at=self.now, op=asker.op, lock=lock, wait_s=60.0, slots=self.slots, level=level),
        )
        self.tick()
        waiting = self.waiting.setdefault(lock, [])
        free = len(self.holding.setdefault(lock, [])) < self.slots and not waiting
        if free or barge:
            self.hold(asker)
        else:
            self.put(asker, "waiting")
            waiting.append(asker)
        return asker

    def hold(self, asker: Asker) -> None:
        """It is granted, and told."""
        self.put(asker, "held")
        self.holding[asker.lock].append(asker)
        at = self.tick()
        self.line(
            asker.process,
            Held(at=at, op=asker.op, id=asker.op, token=asker.token, until=at + TTL_S - 0.1),
        )

    def grant(self, lock: str = "a", place: int = 0) -> None:
        """Hand what is free to who is next."""
        waiting = sorted(self.waiting.get(lock, []), key=lambda asker: asker.turn)
        if len(self.holding.get(lock, [])) < self.slots and len(waiting) > place:
            asker = waiting[place]
            self.waiting[lock].remove(asker)
            self.hold(asker)

    def release(self, asker: Asker) -> None:
        self.line(asker.process, Release(at=self.tick(), op=asker.op))
        self.tick()
        self.holding[asker.lock].remove(asker)
        self.end(asker)
        self.grant(asker.lock)
        self.line(asker.process, Released(at=self.tick(), op=asker.op))

    def renew(self, asker: Asker) -> None:
        self.tick()
        self.put(asker, "held", asker.token)
        until = self.tick() + TTL_S - 0.1
        self.line(asker.process, Believe(at=self.now, op=asker.op, until=until))

    def keep(self, asker: Asker) -> None:
        self.tick()
        self.put(asker, "waiting")

    def let_pass(self, seconds: float, *, frozen: Asker | None = None) -> None:
        """Time goes by, and whoever holds renews."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + 0.5)
            for holding in self.holding.values():
                for asker in holding:
                    if asker is not frozen and self.since_record(asker) > 1.0:
                        self.renew(asker)

    def since_record(self, asker: Asker) -> float:
        """How old its last record is."""
        records = (r for r in reversed(self.records) if isinstance(r, ClaimSet))
        return self.now - next(r.at for r in records if r.id == asker.op)

    def lapse(self, asker: Asker) -> None:
        """Its process is frozen past its lease; it is told later."""
        self.let_pass(TTL_S + 0.2 - self.since_record(asker), frozen=asker)
        self.holding[asker.lock].remove(asker)
        self.end(asker, expired=True)
        self.grant(asker.lock)
        self.line(asker.process, Lost(at=self.tick(), op=asker.op, why="expired"))

    def write(self, asker: Asker, *, value: int | None = None, token: int | None = None) -> None:
        """A read-modify-write of both stores."""
        token = asker.token if token is None else token
        for store in STORES:
            where = f"{store}:{asker.lock}"
            next = self.values.get(where, 0) + 1 if value is None else value
            self.line(
                asker.process,
                Write(at=self.tick(), op=asker.op, store=store, token=token, value=next),
            )
            self.values[where] = next
            stored = Value(value=next, token=token, op=asker.op)
            revision = 0
            if store == "file":
                self.files.setdefault(asker.lock, []).append(stored)
            else:
                revision = self.seq = self.seq + 1
                self.records.append(
                    StateSet(seq=revision, at=self.now, key=f"state.{asker.lock}", value=stored)
                )
            self.line(
                asker.process,
                Written(
                    at=self.tick(), op=asker.op, store=store, result="accepted", revision=revision
                ),
            )

    def finish(self) -> None:
        """Let everybody have their turn."""
        for lock in list(self.holding):
            while self.holding[lock] or self.waiting.get(lock):
                if self.holding[lock]:
                    self.release(self.holding[lock][0])
                else:
                    self.grant(lock)

    def found(self) -> Found:
        return Found(
            ledgers=self.ledgers,
            records=self.records,
            first=FIRST,
            last=self.seq,
            end_at=self.tick(),
            files=self.files,
            finals={
                where.removeprefix("kv:"): value
                for where, value in self.values.items()
                if where.startswith("kv:")
            },
            fresh=[Fresh(lock="a", took_s=0.5)],
            ttl_s=TTL_S,
        )


def kinds(found: Found) -> set[Kind]:
    return set(check(found).findings)


def contended() -> tuple[Model, Asker, Asker, Asker]:
    """One holds and has written, two wait."""
    model = Model()
    first, second, third = (model.ask(name) for name in ("p", "q", "r"))
    model.write(first)
    return model, first, second, third


def played(seed: int, slots: int, steps: int) -> Model:
    """A right history."""
    rand = random.Random(seed)
    model = Model(slots=slots)
    for number in range(steps):
        lock = rand.choice("ab")
        model.let_pass(rand.choice((0.0, 0.01, 0.3)))
        holding = model.holding.get(lock, [])
        waiting = model.waiting.get(lock, [])
        action = rand.random()
        if action < 0.35 or not holding:
            model.ask(f"p{number % 5}", lock, rand.randrange(5))
        elif action < 0.5 and waiting:
            model.keep(rand.choice(waiting))
        elif action < 0.6:
            model.renew(rand.choice(holding))
        elif action < 0.75:
            if slots == 1:
                model.write(holding[0])
            else:
                model.release(rand.choice(holding))
        elif action < 0.8 and slots == 1:
            model.lapse(holding[0])
        else:
            model.release(rand.choice(holding))
    model.finish()
    return model


@given(st.integers(0, 10**9), st.sampled_from([1, 1, 3]), st.integers(1, 80))
@settings(max_examples=150, deadline=None)
def test_nothing_is_wrong_with_a_right_history(seed: int, slots: int, steps: int) -> None:
    model = played(seed, slots, steps)
    verdict = check(model.found())
    assert verdict.findings == {}
    assert verdict.holds == verdict.asks
    assert verdict.counts.missing == 0


@given(st.integers(0, 10**9), st.sampled_from([1, 3]), st.floats(0.01, 0.9))
@settings(max_examples=150, deadline=None)
def test_messages_that_nobody_saw_make_nothing_wrong(seed: int, slots: int, share: float) -> None:
    model = played(seed, slots, 60)
    rand = random.Random(seed)
    found = model.found()
    seen = [record for record in found.records if rand.random() > share]
    rand.shuffle(seen)
    verdict = check(msgspec.structs.replace(found, records=seen))
    assert verdict.findings == {}
    assert verdict.counts.missing == len(found.records) - len(seen)


@given(st.integers(0, 10**9), st.integers(2, 60))
@settings(max_examples=100, deadline=None)
def test_a_grant_out_of_turn_is_found_wherever_it_happens(seed: int, steps: int) -> None:
    model = played(seed, 1, steps)
    holder, second, third = (model.ask(name) for name in ("x", "y", "z"))
    assert second.turn < third.turn
    model.holding["a"].remove(holder)
    model.end(holder)
    model.grant("a", place=1)
    model.finish()
    assert kinds(model.found()) == {"barged"}


@given(st.integers(0, 10**9), st.integers(2, 60), st.sampled_from([1, 3]))
@settings(max_examples=100, deadline=None)
def test_one_holder_too_many_is_found_wherever_it_happens(
    seed: int, steps: int, slots: int
) -> None:
    model = played(seed, slots, steps)
    for number in range(slots):
        model.ask(f"x{number}")
    model.ask("y", barge=True)
    model.finish()
    assert kinds(model.found()) == {"overlap"}


@given(st.integers(0, 10**9), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_a_lost_update_is_found_wherever_it_happens(seed: int, steps: int) -> None:
    model = played(seed, 1, steps)
    asker = model.ask("x")
    model.write(asker)
    model.write(asker, value=model.values["kv:a"])
    model.finish()
    assert "lost_update" in kinds(model.found())


def test_a_newcomer_that_is_served_before_a_waiter_is_found() -> None:
    model, first, _, _ = contended()
    model.holding["a"].remove(first)
    model.end(first)
    model.ask("s", barge=True)
    verdict = check(model.found())
    assert "barged" in verdict.findings
    assert "q.2" in verdict.findings["barged"][0].what


def test_a_higher_level_may_come_first() -> None:
    model = Model()
    first = model.ask("p")
    model.ask("q", level=2)
    urgent = model.ask("r", level=4)
    model.write(first)
    model.release(first)
    assert model.holding["a"] == [urgent]
    model.finish()
    assert check(model.found()).clean


def test_a_level_is_worth_thirty_seconds_and_no_more() -> None:
    model = Model()
    first = model.ask("p")
    patient = model.ask("q", level=2)
    for _ in range(20):
        model.tick(1.6)
        model.renew(first)
        model.keep(patient)
    model.ask("r", level=3)
    model.holding["a"].remove(first)
    model.end(first)
    model.grant("a", place=1)
    model.finish()
    assert kinds(model.found()) == {"barged"}


def test_a_waiter_that_loses_its_place_by_keeping_alive_is_found() -> None:
    model, first, second, _ = contended()
    # As if it had come just now.
    second.arrived = (0, 0)
    model.tick(1.0)
    model.keep(second)
    model.release(first)
    model.finish()
    assert kinds(model.found()) == {"barged"}


def test_a_renewal_that_brings_an_ended_hold_back_is_found() -> None:
    model, first, _, _ = contended()
    model.lapse(first)
    model.put(first, "held", first.token)
    model.end(first)
    model.finish()
    assert kinds(model.found()) == {"overlap", "token"}


def test_a_renewal_that_brings_an_ended_hold_back_is_found_when_nobody_waits() -> None:
    model = Model()
    first = model.ask("p")
    model.lapse(first)
    model.put(first, "held", first.token)
    assert kinds(model.found()) == {"token"}


def handed_over() -> tuple[Model, Asker, Asker, Asker]:
    """One message hands over; the record of the one before still stands."""
    model, first, second, third = contended()
    model.line("p", Release(at=model.tick(), op=first.op))
    model.holding["a"].remove(first)
    model.grant()
    granted = model.records[-1]
    assert isinstance(granted, ClaimSet)
    model.records[-1] = msgspec.structs.replace(granted, after=first.op)
    return model, first, second, third


def test_a_hand_over_in_one_message_ends_the_hold_before() -> None:
    model, first, second, _ = handed_over()
    # A renewal that was under way, and says nothing any more.
    model.put(first, "held", first.token)
    model.write(second)
    model.end(first)
    model.finish()
    assert check(model.found()).clean


def test_a_second_hold_of_what_is_over_is_found() -> None:
    model, first, second, _ = handed_over()
    model.put(first, "held")
    model.end(first)
    model.release(second)
    model.finish()
    assert "overlap" in kinds(model.found())


def test_what_was_left_behind_may_go_in_the_step_that_ends_its_successor() -> None:
    model, first, second, _ = handed_over()
    model.holding["a"].remove(second)
    model.end(second)
    model.end(first)
    model.grant()
    model.line("q", Release(at=model.now, op=second.op))
    model.finish()
    assert not {"token", "stale_write", "barged", "stuck"} & kinds(model.found())


def test_a_write_by_who_handed_over_is_found_while_its_record_still_stands() -> None:
    model, first, _, _ = handed_over()
    model.write(first)
    model.end(first)
    model.finish()
    assert kinds(model.found()) == {"stale_write"}


def test_a_hold_that_comes_back_because_its_record_was_left_is_found() -> None:
    model, _, second, _ = handed_over()
    model.release(second)
    model.finish()
    assert kinds(model.found()) == {"overlap"}


def test_an_id_may_come_again_once_its_claim_has_ended() -> None:
    model, first, _, _ = contended()
    model.lapse(first)
    # It was never told that it held.
    again = Asker(first.op, "p", "a", 2, 1)
    model.tick()
    model.put(again, "waiting")
    model.waiting["a"].append(again)
    model.ledgers["p"] = model.ledgers["p"][:2]
    model.files.clear()
    model.values.clear()
    model.records = [
        Other(seq=each.seq, at=each.at) if isinstance(each, StateSet) else each
        for each in model.records
    ]
    model.finish()
    assert kinds(model.found()) == set()


def test_a_renewal_that_changes_the_token_is_found() -> None:
    model, first, _, _ = contended()
    model.put(first, "held")
    first.token = FIRST
    model.finish()
    assert "token" in kinds(model.found())


def test_a_token_at_which_something_else_was_stored_is_found() -> None:
    model = Model()
    asker = model.ask("p")
    model.records[-1] = msgspec.structs.replace(model.records[-1], token=FIRST - 7)
    assert "token" in kinds(model.found())
    model.records[-1] = msgspec.structs.replace(model.records[-1], token=asker.token, id="other")
    assert kinds(model.found()) == {"token"}


def test_two_clients_with_one_token_are_found() -> None:
    model, _, _, _ = contended()
    model.finish()
    lines = model.ledgers["q"]
    stolen = [
        msgspec.structs.replace(each, token=FIRST) for each in lines if isinstance(each, Held)
    ]
    model.ledgers["q"] = [each if not isinstance(each, Held) else stolen[0] for each in lines]
    assert kinds(model.found()) == {"token"}


def test_a_client_that_asked_later_and_has_the_lower_token_is_found() -> None:
    model = Model()
    early = model.ask("p")
    model.release(early)
    late = model.ask("q")
    model.release(late)
    tokens = {early.op: late.token, late.op: early.token}
    for process, lines in model.ledgers.items():
        model.ledgers[process] = [
            msgspec.structs.replace(each, token=tokens[each.op]) if isinstance(each, Held) else each
            for each in lines
        ]
    # Nothing of the bucket was seen: the clients alone tell.
    blind = msgspec.structs.replace(model.found(), records=[])
    assert kinds(blind) == {"token"}


def test_two_that_believe_at_once_are_found_even_where_the_bucket_was_not_seen() -> None:
    model, _, _, _ = contended()
    model.ask("s", barge=True)
    model.finish()
    assert "overlap" in kinds(msgspec.structs.replace(model.found(), records=[]))


def test_a_frozen_client_believes_no_longer_than_its_lease() -> None:
    model, first, _, _ = contended()
    model.lapse(first)
    model.finish()
    # It learned of it after others had held.
    assert check(model.found()).clean


def test_a_killed_client_believes_nothing() -> None:
    model, first, second, third = contended()
    model.holding["a"].remove(first)
    model.end(first)
    model.grant()
    # The process came back before the lease that it forgot would have ended.
    model.ledgers["p"].append(Started(at=model.now))
    model.release(second)
    model.release(third)
    assert check(model.found()).findings == {}


@pytest.mark.parametrize("held_by", ["another", "nobody"])
def test_a_late_write_that_the_bucket_takes_is_found(held_by: str) -> None:
    model = Model()
    first = model.ask("p")
    if held_by == "another":
        model.ask("q")
    model.write(first)
    model.lapse(first)
    model.write(first)
    if held_by == "another":
        model.finish()
    assert kinds(model.found()) == {"stale_write"}


def test_a_late_write_that_a_file_takes_is_found() -> None:
    model, first, second, _ = contended()
    model.lapse(first)
    model.write(second)
    model.files["a"].append(Value(value=3, token=first.token, op="late"))
    model.finish()
    found = model.found()
    assert kinds(msgspec.structs.replace(found, records=[])) == {"stale_write", "lost_update"}


def drop(kind: type[Line], **fields: object) -> Callable[[Line], bool]:
    return lambda line: (
        not (isinstance(line, kind) and all(getattr(line, k) == v for k, v in fields.items()))
    )


@pytest.mark.parametrize("store", STORES)
def test_an_accepted_write_that_is_not_there_is_found(store: Store) -> None:
    model, _, _, _ = contended()
    model.finish()
    if store == "file":
        model.files["a"].clear()
    else:
        model.values["kv:a"] = 0
        at = next(n for n, each in enumerate(model.records) if isinstance(each, StateSet))
        model.records[at] = Other(seq=model.records[at].seq, at=model.records[at].at)
    assert kinds(model.found()) == {"lost_update"}


@pytest.mark.parametrize("store", STORES)
def test_a_write_whose_fate_is_unknown_may_be_there_or_not(store: Store) -> None:
    model, _, _, _ = contended()
    model.finish()
    model.ledgers["p"] = list(filter(drop(Written, store=store), model.ledgers["p"]))
    assert check(model.found()).findings == {}
    told = check(model.found()).told[store]
    assert (told.accepted, told.unknown) == (0, 1)


@pytest.mark.parametrize("store", STORES)
def test_a_refused_write_that_is_there_is_found(store: Store) -> None:
    model, _, _, _ = contended()
    model.finish()
    model.ledgers["p"] = [
        msgspec.structs.replace(each, result="refused")
        if isinstance(each, Written) and each.store == store
        else each
        for each in model.ledgers["p"]
    ]
    assert "misreported" in kinds(model.found())


def test_a_last_value_that_nobody_wrote_is_found() -> None:
    model, _, _, _ = contended()
    model.finish()
    model.values["kv:a"] = 5
    assert kinds(model.found()) == {"lost_update"}


def late_grant(model: Model, seconds: float) -> None:
    """The holder died, and its lease ended; the next one is granted so much later."""
    first = model.holding["a"].pop()
    model.now += TTL_S + 0.2
    model.end(first, expired=True)
    model.now += seconds - 0.2
    model.ledgers["p"].append(Started(at=model.now))
    model.grant()
    model.finish()


def test_a_lock_that_stands_still_is_found() -> None:
    model, _, _, _ = contended()
    late_grant(model, SLACK_S + 0.5)
    verdict = check(model.found())
    assert set(verdict.findings) == {"stuck"}
    assert verdict.counts.worst_stuck_s == pytest.approx(SLACK_S + 0.5, abs=0.1)


def test_a_lock_may_stand_still_as_long_as_its_lease_and_a_little() -> None:
    model, _, _, _ = contended()
    late_grant(model, SLACK_S - 0.3)
    assert check(model.found()).findings == {}


def test_a_lock_may_stand_still_while_the_broker_is_broken() -> None:
    model, _, _, _ = contended()
    broken = Window(model.now + TTL_S, model.now + TTL_S + 8.0)
    late_grant(model, 9.0)
    found = msgspec.structs.replace(model.found(), broken=[broken])
    assert check(found).findings == {}
    assert check(found).counts.worst_stuck_s == pytest.approx(1.0, abs=0.1)


def test_a_lock_that_is_given_back_and_handed_to_nobody_is_found_at_the_end() -> None:
    model, first, second, _ = contended()
    model.holding["a"].remove(first)
    model.end(first)
    for _ in range(6):
        model.tick(1.0)
        model.keep(second)
    assert "stuck" in kinds(model.found())


def test_a_holder_that_never_expires_is_found_at_the_end() -> None:
    model, _, second, _ = contended()
    for _ in range(6):
        model.tick(1.0)
        model.keep(second)
    assert "stuck" in kinds(model.found())


def test_a_waiter_that_goes_away_is_no_standstill() -> None:
    model = Model()
    first = model.ask("p")
    model.write(first)
    gone = model.ask("q")
    model.waiting["a"].remove(gone)
    model.end(gone)
    line = NotHeld(at=model.now, op=gone.op, why="timeout")
    model.ledgers["q"].append(line)
    for _ in range(6):
        model.tick(1.0)
        model.renew(first)
    last = model.ask("r")
    model.release(first)
    model.release(last)
    verdict = check(model.found())
    assert verdict.clean
    assert verdict.timeouts == 1


def test_somebody_who_is_never_told_is_found() -> None:
    model, _, _, _ = contended()
    model.finish()
    model.ledgers["q"] = list(filter(drop(Held), model.ledgers["q"]))
    assert kinds(model.found()) == {"unanswered"}


def test_somebody_whose_process_was_killed_needs_no_answer() -> None:
    model, _, _, _ = contended()
    model.finish()
    model.ledgers["q"] = list(filter(drop(Held), model.ledgers["q"]))
    model.ledgers["q"].append(Started(at=model.now))
    assert kinds(model.found()) == set()


def told_late(frozen_s: float) -> Verdict:
    model = Model()
    model.write(model.ask("p"))
    model.finish()
    op = "late.1"
    model.line("late", Ask(at=model.now, op=op, lock="a", wait_s=5.0))
    start = model.now
    model.tick(40.0)
    model.line("late", NotHeld(at=model.now, op=op, why="timeout"))
    frozen = {"late": [Window(start, start + frozen_s)]}
    return check(msgspec.structs.replace(model.found(), frozen=frozen))


def test_somebody_who_is_told_long_after_the_deadline_is_found() -> None:
    assert set(told_late(0.0).findings) == {"unanswered"}
    assert set(told_late(30.0).findings) == set()


def test_where_nobody_may_time_out_a_timeout_is_a_lost_waiter() -> None:
    model, _, _, _ = contended()
    model.finish()
    model.line("s", Ask(at=model.now, op="s.9", lock="a", wait_s=5.0))
    model.line("s", NotHeld(at=model.tick(5.0), op="s.9", why="timeout"))
    assert check(model.found()).clean
    found = msgspec.structs.replace(model.found(), nobody_times_out=True)
    assert kinds(found) == {"unanswered"}


@pytest.mark.parametrize("took_s", [None, TTL_S + SLACK_S + 0.1])
def test_a_lock_that_nobody_new_can_have_is_found(took_s: float | None) -> None:
    model, _, _, _ = contended()
    model.finish()
    found = msgspec.structs.replace(model.found(), fresh=[Fresh(lock="a", took_s=took_s)])
    assert kinds(found) == {"stuck"}


def test_a_run_in_which_nothing_happened_is_not_clean() -> None:
    verdict = check(Model().found())
    assert verdict.findings == {}
    assert not verdict.clean


def test_a_run_is_counted() -> None:
    model, first, second, _ = contended()
    model.renew(first)
    model.lapse(first)
    model.write(second)
    model.finish()
    verdict = check(model.found())
    assert verdict.clean
    assert (verdict.asks, verdict.holds, verdict.lost, verdict.timeouts) == (3, 3, 1, 0)
    counts = verdict.counts
    assert (counts.grants, counts.hand_overs, counts.renewals, counts.expired) == (3, 2, 1, 1)
    assert counts.stored == verdict.told["kv"].accepted == verdict.told["file"].accepted == 2


def test_what_is_missing_is_counted_between_any_two() -> None:
    seen: list[Record] = [Other(seq=seq, at=0.0) for seq in (3, 4, 7, 9)]
    history = History(seen, first=1, last=10)
    assert history.missing == 6
    assert history.missing_between(4, 7) == 2
    assert history.missing_between(3, 4) == 0
    assert history.missing_between(0, 4) == 2
    assert [seq for seq in range(13) if history.missed(seq)] == [1, 2, 5, 6, 8, 10]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20))),
    st.integers(0, 50),
    st.integers(0, 30),
)
def test_time_outside_of_windows_is_what_is_left(
    drawn: list[tuple[int, int]], start: int, length: int
) -> None:
    windows = Windows(Window(at, at + long) for at, long in drawn)
    left = sum(
        not any(at <= second < at + long for at, long in drawn)
        for second in range(start, start + length)
    )
    assert windows.outside_s(start, start + length) == left


def test_messages_of_the_bucket_are_read() -> None:
    claim = Claim(name="export:a", state="waiting", priority="high", slots=3, note="p.1")
    body = msgspec.json.encode(claim)
    subject = "$KV.locks.claim.export%3Aa.x"
    waiting = decode(subject, 7, 5 * NS, {"Nats-TTL": "6s"}, body, behind_ns=2 * NS)
    assert waiting == ClaimSet(
        seq=7, at=3.0, lock="export%3Aa", id="x", state="waiting", token=0,
        arrived_ns=5 * NS, arrived_seq=7, level=3, slots=3, ttl_s=6.0, op="p.1",
    )  # fmt: skip
    body = msgspec.json.encode(
        msgspec.structs.replace(claim, state="held", asked_ns=5 * NS, asked_seq=7)
    )
    held = decode(subject, 9, 6 * NS, {"Nats-TTL": "2s"}, body, behind_ns=2 * NS)
    assert isinstance(held, ClaimSet)
    assert (held.token, held.turn) == (9, waiting.turn)
    for headers in ({"KV-Operation": "PURGE"}, {"Nats-Marker-Reason": "MaxAge"}):
        end = decode(subject, 10, 7 * NS, headers, b"", behind_ns=0)
        assert isinstance(end, ClaimEnd)
        assert end.expired == ("Nats-Marker-Reason" in headers)
    stored = decode(
        "$KV.locks.state.a", 11, 7 * NS, {}, b'{"value":1,"token":9,"op":"p.1"}', behind_ns=0
    )
    assert stored == StateSet(
        seq=11, at=7.0, key="state.a", value=Value(value=1, token=9, op="p.1")
    )
    assert isinstance(decode("$KV.locks.else", 12, 7 * NS, {}, b"", behind_ns=0), Other)
