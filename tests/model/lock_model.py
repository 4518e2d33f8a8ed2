"""Interlock's locks as a model: a broker, replicas that lag, clients that come, hang and die.

What is decided and what is remembered is the real thing: every step is what `leases` says of what a
`Registry` knows, committed under the conditions that the service writes into its messages. Modelled
is what is around them: the broker's compare-and-set, markers that vanish, lives that end, replicas
that are behind or begin anew, requests that come twice or late, and how long a client may believe.

A state is a string of bytes. Its first part are sequences, and they are ranks: only their order
matters, so states that differ by when things happened are one. Time is left out: whatever a clock
decides (a life ends, a marker is gone, a holder fences itself) may happen at any moment that the
rules allow.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import msgspec

from interlock.conditional import Write
from interlock_schemas import locks, subjects
from interlock_schemas.locks import AcquireLock, Claim, Priority
from interlock_schemas.topology import LOCKS
from interlock_sync_mutex import leases
from interlock_sync_mutex.leases import Lock, Standing, Step
from interlock_sync_mutex.registry import MARKER_S, Registry, Told
from interlock_sync_mutex.service import handed_over, with_leftovers, writes

__all__ = ["Bounds", "Flaw", "LockModel"]

#: What is broken on purpose, to see that the rules notice.
Flaw = Literal[
    "renewal_unconditional",
    "settle_unconditional",
    "acquire_unconditional",
    "two_step_hand_over",
    "rules_on_idle_locks_off",
    "late_ack_counts",
    "hold_counted_from_a_later_sending",
    "alone_for_ever",
    "any_marker_will_do",
    "unsure_is_sure",
    "second_is_always_sure",
    "expiry_before_the_deadline",
    "forget_unchecked",
]

NAME: Final = "model"
TOKEN: Final = subjects.token(NAME)

# What stands at a key.
NONE, MARKER, WAITING, HELD, OFFERED, OVER = range(6)
_STANDS = (WAITING, HELD, OFFERED)
# The kind is the low bits of its byte. Above it is whose claim it was handed over from.
_KIND, _AFTER = 7, 3

# What a client is about.
ACTIVE, OPEN, BELIEVES, ALONE, CRASHED, TOLD, UNSURE = (1 << bit for bit in range(7))

# Whose time is over and whose marker is on its way: and whether a write has passed it.
UNDER_WAY, PASSED = 1, 2


@dataclass(frozen=True)
class Bounds:
    """How much of everything there is. All of it can happen in any order."""

    priorities: tuple[Priority, ...] = ("normal", "normal")
    """One for each client."""
    slots: int = 1
    asks: int = 1
    """Claims that each client makes, one after the other."""
    repeats: int = 0
    """Times that a request to acquire arrives once more, whatever has happened meanwhile."""
    replicas: int = 2
    lag: int = 2
    """Records that a replica can be behind by, at most."""
    restarts: int = 0
    """Replicas that begin anew from a snapshot."""
    renewals: int = 1
    """Besides those that take up what was handed over."""
    keeps: int = 0
    expiries: int = 1
    crashes: int = 0
    ends: Literal["no", "crashed", "any"] = "no"
    """Whose claims the service ends before their time. Where that is anybody's, a holder believes
    for a while what is not so any more, and only its token tells: what clients believe has no rule
    then."""
    direct: bool = True
    """Clients go to the bucket themselves where nobody has a claim."""
    late_markers: Literal["no", "one", "any"] = "no"
    """Whether a write can get between the decision that a record is due and its marker, which then
    wipes what was written: one write of that key, or any number."""
    final: bool = False
    """Whether a client that can rely on nothing any more never does again, under the same id."""
    lossy: bool = False
    """Whether a replica misses records that are gone before it is told of them."""
    flaws: frozenset[Flaw] = frozenset()


class Event(msgspec.Struct, frozen=True):
    """One message of a step: what stands at a key then, and on what condition."""

    key: int
    kind: int
    token: int = 0
    asked: int = 0
    after: int = 0
    """Key of the claim that it was handed over from, plus 1."""
    group: int | None = None
    own: int | None = None


class Decided(msgspec.Struct, frozen=True):
    """A step, as the broker gets it."""

    events: tuple[Event, ...]
    ended: frozenset[int] = frozenset()
    expects: tuple[int, ...] = ()
    """What the group's last sequence may be, as far as the replica knows."""


class LockModel:
    """All that can happen within the bounds, and what must not."""

    def __init__(self, bounds: Bounds) -> None:
        b = self.bounds = bounds
        self._keys = len(b.priorities) * b.asks
        self._clients = len(b.priorities)
        k, c, r = self._keys, self._clients, b.replicas
        # Sequences: tables of (revision, token, asked), the log, what clients know, the last token.
        self._table = 3 * k
        self._log_seq = self._table * (1 + r)
        self._client_seq = self._log_seq + 3 * b.lag
        self._top = self._client_seq + 3 * c
        self._sequences = self._top + 1
        # The rest: kinds, the log's keys and kinds, lags, clients, requests, budgets.
        self._kinds = self._sequences
        self._log = self._kinds + k * (1 + r)
        self._log_kinds = self._log + b.lag
        self._lags = self._log_kinds + b.lag
        self._flags = self._lags + r
        self._asked = self._flags + c
        self._left = self._asked + c
        self._over = self._left + k
        self._due = self._over + k
        self._budgets = self._due + k
        self._size = self._budgets + 5
        self._now_fresh, self._now_aged = 0.0, 2 * MARKER_S
        self._decisions: dict[tuple[object, ...], Decided | None] = {}
        self._views: dict[tuple[object, ...], tuple[bytes, bytes]] = {}
        self._drains: dict[tuple[bytes, bytes], str | None] = {}
        self._standing = cache(self._make_standing)
        self._requests = [self._request(key) for key in range(k)]
        self._ids = {self._id(key): key for key in range(k)}

    # Keys and records

    def _owner(self, key: int) -> int:
        return key // self.bounds.asks

    def _id(self, key: int) -> str:
        return f"{'ABCDEF'[self._owner(key)]}{key % self.bounds.asks + 1}"

    def _request(self, key: int) -> AcquireLock:
        return AcquireLock(
            name=NAME,
            id=self._id(key),
            wait=True,
            slots=self.bounds.slots,
            priority=self.bounds.priorities[self._owner(key)],
        )

    def _make_standing(
        self, key: int, code: int, revision: int, token: int, asked: int
    ) -> Standing:
        kind, after = code & _KIND, code >> _AFTER
        claim = Claim(
            name=NAME,
            state="waiting" if kind == WAITING else "held",
            slots=self.bounds.slots,
            priority=self.bounds.priorities[self._owner(key)],
            token=token,
            held_ns=token,
            asked_ns=asked,
            asked_seq=asked,
            offered=kind == OFFERED,
            after=self._id(after - 1) if after else "",
        )
        return Standing(self._id(key), claim, revision, revision)

    def _event(self, write: Write, claim: Claim | None) -> Event:
        found = locks.parse_claim_key(write.subject.removeprefix(LOCKS.key_subject("")))
        assert found is not None
        key = self._ids[found[1]]
        group = own = None
        if (last := write.headers.get("Nats-Expected-Last-Subject-Sequence")) is not None:
            subject = write.headers.get("Nats-Expected-Last-Subject-Sequence-Subject")
            if subject is None:
                own = int(last)
            else:
                assert subject == locks.group(NAME)
                group = int(last)
        if claim is None:
            assert write.headers["KV-Operation"] == "PURGE"
            return Event(key, MARKER, group=group, own=own)
        assert claim == msgspec.json.decode(write.body, type=Claim)
        return msgspec.structs.replace(self._record(key, claim), group=group, own=own)

    def _record(self, key: int, claim: Claim) -> Event:
        assert claim.held_ns == claim.token, "held since when its token was given"
        assert claim.asked_ns == claim.asked_seq
        assert claim.slots == self.bounds.slots
        kind = WAITING if claim.state == "waiting" else OFFERED if claim.offered else HELD
        after = self._ids[claim.after] + 1 if claim.after else 0
        return Event(key, kind, claim.token, claim.asked_seq, after)

    # What a replica knows

    def _registry(self, seqs: bytes, kinds: bytes) -> Registry:
        """A real one, told the records of a table in their order."""
        registry = Registry()
        for _, key in sorted((seqs[3 * key], key) for key in range(self._keys) if kinds[key]):
            at = 3 * key
            registry.apply(
                self._told(key, kinds[key], seqs[at], seqs[at + 1], seqs[at + 2]), self._now_fresh
            )
        return registry

    def _told(self, key: int, kind: int, revision: int, token: int, asked: int) -> Told:
        body = None
        if kind & _KIND != MARKER:
            body = msgspec.json.encode(self._standing(key, kind, revision, token, asked).claim)
        return Told(locks.claim_key(NAME, self._id(key)), revision, revision, body)

    def _table_of(self, registry: Registry) -> tuple[bytes, bytes]:
        seqs, kinds = bytearray(self._table), bytearray(self._keys)
        for id, standing in registry._groups.get(TOKEN, {}).items():
            key = self._ids[id]
            record = self._record(key, standing.claim)
            kinds[key] = record.kind | record.after << _AFTER
            seqs[3 * key : 3 * key + 3] = bytes((standing.revision, record.token, record.asked))
        for id, (revision, _) in registry._markers.get(TOKEN, {}).items():
            key = self._ids[id]
            assert not kinds[key]
            kinds[key], seqs[3 * key] = MARKER, revision
        return bytes(seqs), bytes(kinds)

    def _applied(self, view: tuple[bytes, bytes], entry: tuple[int, ...]) -> tuple[bytes, bytes]:
        found = self._views.get((view, entry))
        if found is None:
            registry = self._registry(*view)
            registry.apply(self._told(*entry), self._now_fresh)
            found = self._views[view, entry] = self._table_of(registry)
        return found

    def _forgotten(self, view: tuple[bytes, bytes], key: int) -> tuple[bytes, bytes]:
        registry = self._registry(*view)
        registry.forget(TOKEN, self._id(key))
        return self._table_of(registry)

    def _decide(
        self,
        view: tuple[bytes, bytes],
        what: str,
        arg: int,
        decide: Callable[[Lock], object],
    ) -> Decided | None:
        """What a replica writes, which knows this much."""
        cached = (view, what, arg)
        if cached in self._decisions:
            return self._decisions[cached]
        registry = self._registry(*view)
        step = decide(registry.lock(TOKEN, NAME))
        decided = None
        if isinstance(step, Step):
            step = with_leftovers(step, registry.leftovers(TOKEN))
            ended = frozenset(self._ids[end.standing.id] for end in step.ends)
            if what == "hand on" and (put := handed_over(step)) is not None:
                step = Step(puts=(put,))
            fresh, aged = (registry.last(TOKEN, now) for now in (self._now_fresh, self._now_aged))
            top = max(view[0], default=0)
            expects = {fresh, aged} | {
                last for last in range(1, top + 1) if registry.is_last(TOKEN, last)
            }
            # Which sequence is expected is filled in where it is committed.
            claims = [None for _ in step.ends] + [put.claim for put in step.puts]
            events = [
                self._event(write, claim)
                for write, claim in zip(writes(NAME, step, 0), claims, strict=True)
            ]
            decided = Decided(tuple(events), ended, tuple(sorted(expects)))
        elif isinstance(step, tuple):
            standing, put = step
            key = self._ids[put.id]
            event = msgspec.structs.replace(self._record(key, put.claim), own=standing.revision)
            decided = Decided((event,))
        self._decisions[cached] = decided
        return decided

    # States

    def initial(self) -> bytes:
        b = self.bounds
        state = bytearray(self._size)
        state[self._budgets :] = bytes((b.renewals, b.keeps, b.expiries, b.crashes, b.restarts))
        return bytes(state)

    def _view(self, state: bytes | bytearray, place: int) -> tuple[bytes, bytes]:
        """The table of the broker (0) or of a replica (from 1)."""
        t, k = self._table, self._keys
        kinds = self._kinds + k * place
        return bytes(state[t * place : t * (place + 1)]), bytes(state[kinds : kinds + k])

    def _set_view(self, state: bytearray, place: int, view: tuple[bytes, bytes]) -> None:
        t, k = self._table, self._keys
        state[t * place : t * (place + 1)] = view[0]
        state[self._kinds + k * place : self._kinds + k * (place + 1)] = view[1]

    def _last(self, state: bytes | bytearray) -> int:
        """The group's last sequence, as the broker sees it."""
        return max(state[0 : self._table : 3])

    def _canonical(self, state: bytearray) -> bytes:
        """One name for all states that behave alike."""
        b, k = self.bounds, self._keys
        lags = state[self._lags : self._lags + b.replicas]
        if b.replicas == 2:
            ones, others = self._view(state, 1), self._view(state, 2)
            if (lags[0], ones) > (lags[1], others):
                self._set_view(state, 1, others)
                self._set_view(state, 2, ones)
                state[self._lags], state[self._lags + 1] = lags[1], lags[0]
        for client in range(self._clients):
            at = self._client_seq + 3 * client
            flags = state[self._flags + client]
            if not flags & ACTIVE:
                state[self._flags + client] = flags & CRASHED
                state[at] = state[at + 1] = 0
            # A marker of one's own is of use only while it stands and is the last.
            if state[at + 2] and state[at + 2] not in state[0 : self._table : 3]:
                state[at + 2] = 0
        for key in range(k):
            known = any(state[self._kinds + k * place + key] for place in range(b.replicas + 1))
            if not known and not any(
                state[self._log + place] == key and state[self._log_kinds + place]
                for place in range(b.lag)
            ):
                client = self._owner(key)
                current = state[self._flags + client] & ACTIVE and self._key(state, client) == key
                if state[self._over + key] and not state[self._left + key] and not current:
                    state[self._over + key] = 0
        ranks = sorted(set(state[: self._sequences]) | {0})
        table = bytearray(256)
        for rank, sequence in enumerate(ranks):
            table[sequence] = rank
        state[: self._sequences] = state[: self._sequences].translate(table)
        return bytes(state)

    def _key(self, state: bytes | bytearray, client: int) -> int:
        return client * self.bounds.asks + state[self._asked + client] - 1

    # Commits

    def _commit(
        self,
        before: bytes,
        decided: Decided,
        *,
        what: Literal["acquire", "grant", "hand_over", "touch", "expire"],
        at: int | None = None,
        unconditional: bool = False,
    ) -> tuple[bytearray, str | None] | None:
        """The broker stores a step, or does not (None); and which rule it broke.

        `at`: the sequence expected of the group, where it is not whatever the replica knows.
        """
        b = self.bounds
        last = self._last(before)
        expects = decided.expects if at is None else (at,)
        for event in decided.events:
            if unconditional:
                break
            if event.group is not None and last not in expects:
                return None
            if event.own is not None and before[3 * event.key] != event.own:
                return None
            if before[self._due + event.key] == PASSED and what != "expire":
                return None
        if any(lag + len(decided.events) > b.lag for lag in self._lags_of(before)):
            return None
        state = bytearray(before)
        sequence = max(before[: self._sequences])
        for event in decided.events:
            sequence += 1
            self._store(state, event, sequence, what)
        return state, self._step_rule(before, state, decided, what)

    def _lags_of(self, state: bytes | bytearray) -> bytes:
        return bytes(state[self._lags : self._lags + self.bounds.replicas])

    def _store(self, state: bytearray, event: Event, sequence: int, what: str) -> None:
        b, key = self.bounds, event.key
        state[3 * key : 3 * key + 3] = bytes((sequence, event.token, event.asked))
        state[self._kinds + key] = event.kind | event.after << _AFTER
        if what == "expire":
            state[self._due + key] = 0
        elif state[self._due + key] and b.late_markers == "one":
            state[self._due + key] = PASSED
        held = event.kind in (HELD, OFFERED)
        if held and not event.token:
            state[self._top] = max(state[self._top], sequence)
        length = max(self._lags_of(state), default=0)
        for replica in range(b.replicas):
            state[self._lags + replica] += 1
        at = self._log_seq + 3 * length
        state[at : at + 3] = bytes((sequence, event.token, event.asked))
        state[self._log + length] = key
        state[self._log_kinds + length] = state[self._kinds + key]
        client = self._owner(key)
        if state[self._flags + client] & ACTIVE and self._key(state, client) == key:
            at = self._client_seq + 3 * client
            if held:
                state[at], state[at + 1] = sequence, event.token or sequence
                # It can hear that at any later time. An offer it has to take up first.
                state[self._flags + client] &= ~TOLD
                if event.kind == HELD:
                    state[self._flags + client] |= TOLD
            elif event.kind == WAITING:
                # It hears that it waits, and what it was told before is old.
                state[self._flags + client] &= ~TOLD

    def _step_rule(
        self, before: bytes, after: bytearray, decided: Decided, what: str
    ) -> str | None:
        """Which rule a commit broke."""
        b = self.bounds
        were, are = self._effective(before), self._effective(after)
        waiters = [key for key, kind in enumerate(were) if kind == WAITING]
        holders = sum(kind in (HELD, OFFERED) for kind in were)
        granted: list[int] = []
        for event in decided.events:
            key, was = event.key, were[event.key]
            was_token = before[3 * key + 1] or before[3 * key]
            if event.kind == MARKER and was == WAITING and key not in decided.ended:
                return f"the waiting claim {self._id(key)} was dropped"
            if event.kind == WAITING and was == WAITING:
                place = before[3 * key + 2] or before[3 * key]
                if event.asked != place:
                    return f"{self._id(key)} lost its place in the queue"
            if event.kind == WAITING and was in (HELD, OFFERED) and not before[self._over + key]:
                return f"{self._id(key)} held and was made to wait"
            if event.kind in (HELD, OFFERED):
                if was in (HELD, OFFERED, OVER):
                    if event.token != was_token:
                        return f"the token of {self._id(key)} changed while it held"
                else:
                    granted.append(key)
                    if event.token and event.token <= before[self._top]:
                        return f"{self._id(key)} was granted with a token that did not rise"
        if sum(kind in (HELD, OFFERED) for kind in are) > b.slots:
            return f"more than {b.slots} hold it"
        left = sorted((key for key in waiters if key not in decided.ended), key=self._turn(before))
        if what == "acquire" and left and any(key not in left for key in granted):
            return f"{self._id(granted[0])} came past {self._id(left[0])}, which waits"
        served = [key for key in left if key in granted]
        if served != left[: len(served)]:
            return f"{self._id(served[-1])} was served before {self._id(left[0])}"
        if what == "hand_over" and "rules_on_idle_locks_off" not in b.flaws:
            still = are.count(WAITING)
            hold = sum(kind in (HELD, OFFERED) for kind in are)
            if min(b.slots - hold, still) > min(b.slots - holders, len(left)):
                return "it was given back, and is free although somebody waits"
        return None

    def _effective(self, state: bytes | bytearray) -> list[int]:
        """What the records come to: who handed over holds no more while the next one does."""
        codes = state[self._kinds : self._kinds + self._keys]
        found = [code & _KIND for code in codes]
        for code in codes:
            before = (code >> _AFTER) - 1
            if before >= 0 and code & _KIND in (HELD, OFFERED) and found[before] in _STANDS:
                found[before] = OVER
        return found

    def _turn(self, state: bytes) -> Callable[[int], tuple[int, int]]:
        """The order that is promised, told anew: urgency first, then who came first."""

        def turn(key: int) -> tuple[int, int]:
            level = locks.LEVELS[self.bounds.priorities[self._owner(key)]]
            return -level, state[3 * key + 2] or state[3 * key]

        return turn

    # What happens

    def steps(self, state: bytes) -> Iterator[tuple[str, bytes, str | None]]:
        for told, then, rule in self._steps(state):
            yield told, self._canonical(then), rule

    def _steps(self, state: bytes) -> Iterator[tuple[str, bytearray, str | None]]:
        for client in range(self._clients):
            yield from self._client_steps(state, client)
        seen: set[tuple[int, tuple[bytes, bytes]]] = set()
        for replica in range(self.bounds.replicas):
            view = self._view(state, replica + 1)
            lag = state[self._lags + replica]
            if (lag, view) in seen:
                continue
            seen.add((lag, view))
            yield from self._replica_steps(state, replica, view, lag)
        yield from self._broker_steps(state)

    def _client_steps(
        self, state: bytes, client: int
    ) -> Iterator[tuple[str, bytearray, str | None]]:
        b = self.bounds
        flags = state[self._flags + client]
        name = "ABCDEF"[client]
        at = self._client_seq + 3 * client
        if flags & CRASHED:
            return
        if not flags & ACTIVE:
            if state[self._asked + client] < b.asks:
                then = bytearray(state)
                then[self._flags + client] = ACTIVE | OPEN
                then[self._asked + client] += 1
                then[self._left + self._key(then, client)] = 1 + b.repeats
                yield f"{name} asks", then, None
            return
        key = self._key(state, client)
        held = self._effective(state)[key] in (HELD, OFFERED)
        yield from self._direct_steps(state, client, key)
        if flags & TOLD and not flags & (BELIEVES | UNSURE):
            late = not flags & OPEN
            if not late or "late_ack_counts" in b.flaws:
                then = bytearray(state)
                then[self._flags + client] |= BELIEVES | OPEN
                yield f"{name} hears that it holds{', too late' if late else ''}", then, None
            elif "hold_counted_from_a_later_sending" in b.flaws and state[self._left + key]:
                then = bytearray(state)
                then[self._flags + client] |= BELIEVES | OPEN
                then[self._left + key] -= 1
                yield f"{name} asks again, and hears that it holds", then, None
        if held and state[at] == state[3 * key]:
            yield from self._own_renewal(state, client, key)
        if flags & OPEN:
            then = bytearray(state)
            then[self._flags + client] &= ~(OPEN | BELIEVES)
            yield f"{name} hears nothing for so long that it can rely on nothing", then, None
        then = bytearray(state)
        then[self._flags + client] = 0
        then[self._over + key] = 1
        yield f"{name} {'gives back' if flags & BELIEVES else 'gives up'}", then, None
        if state[self._budgets + 3]:
            then = bytearray(state)
            then[self._flags + client] = CRASHED
            then[self._budgets + 3] -= 1
            yield f"{name} crashes", then, None

    def _direct_steps(
        self, state: bytes, client: int, key: int
    ) -> Iterator[tuple[str, bytearray, str | None]]:
        """What a client does at the bucket by itself."""
        b, name = self.bounds, "ABCDEF"[client]
        if not b.direct:
            return
        at = self._client_seq + 3 * client
        flags = state[self._flags + client]
        lasts = {0, state[at + 2]}
        if "any_marker_will_do" in b.flaws:
            lasts |= {
                state[3 * each] for each in range(self._keys) if state[self._kinds + each] == MARKER
            }
        if state[self._left + key] and state[self._kinds + key] & _KIND not in _STANDS:
            decided = self._decide(
                (bytes(self._table), bytes(self._keys)),
                "acquire",
                key,
                lambda lock: leases.acquire(lock, self._requests[key], self._id(key)),
            )
            assert decided is not None
            for last in sorted(lasts):
                if (done := self._commit(state, decided, what="acquire", at=last)) is not None:
                    then, rule = done
                    then[self._left + key] -= 1
                    then[self._flags + client] |= ALONE
                    yield f"{name} takes it directly", then, rule
        if flags & BELIEVES and flags & ALONE:
            gone = Decided((Event(key, MARKER, group=0),), frozenset((key,)))
            done = self._commit(state, gone, what="hand_over", at=state[at])
            if done is not None:
                then, rule = done
                then[self._flags + client] = 0
                then[at + 2] = then[3 * key]
                then[self._over + key] = 1
                yield f"{name} gives it back directly", then, rule

    def _own_renewal(
        self, state: bytes, client: int, key: int
    ) -> Iterator[tuple[str, bytearray, str | None]]:
        """A renewal or a take-up, on the condition of the claim's own record."""
        b, name = self.bounds, "ABCDEF"[client]
        flags = state[self._flags + client]
        offered = state[self._kinds + key] & _KIND == OFFERED
        # To be sure of what was taken up too late it is renewed once more, whatever the budget.
        confirms = bool(flags & UNSURE)
        if not (offered or confirms or state[self._budgets]):
            return
        at = 3 * key
        standing = self._standing(
            key, state[self._kinds + key], state[at], state[at + 1], state[at + 2]
        )
        record = self._record(key, leases.renewed(standing))
        event = msgspec.structs.replace(record, own=standing.revision)
        done = self._commit(state, Decided((event,)), what="touch")
        if done is None:
            return
        then, rule = done
        if not (offered or confirms):
            then[self._budgets] -= 1
        if "alone_for_ever" not in b.flaws:
            then[self._flags + client] &= ~ALONE
        if not flags & OPEN and not b.final:
            # What it renewed may have been due, with its marker under way: once more, then.
            then[self._flags + client] |= OPEN
            if "unsure_is_sure" not in b.flaws:
                then[self._flags + client] |= UNSURE
            if confirms and "second_is_always_sure" in b.flaws:
                then[self._flags + client] &= ~UNSURE
        elif flags & OPEN:
            then[self._flags + client] &= ~UNSURE
        yield f"{name} {'takes it up' if offered else 'renews'}", then, rule

    def _replica_steps(
        self, state: bytes, replica: int, view: tuple[bytes, bytes], lag: int
    ) -> Iterator[tuple[str, bytearray, str | None]]:
        b = self.bounds
        who = f"a replica {lag} behind" if lag else "a replica"
        if lag:
            yield from self._deliveries(state, replica, view)
        if state[self._budgets + 4]:
            then = bytearray(state)
            fresh = self._table_of(self._registry(*self._view(state, 0)))
            self._set_view(then, replica + 1, fresh)
            then[self._budgets + 4] -= 1
            self._caught_up(then, replica, 0)
            yield f"{who} begins anew", then, None
        for key in range(self._keys):
            yield from self._command_steps(state, view, who, key)
            kind = view[1][key] & _KIND
            if b.lossy and kind in _STANDS:
                gone = state[self._kinds + key] & _KIND not in _STANDS
                if gone or ("forget_unchecked" in b.flaws and lag == 0):
                    then = bytearray(state)
                    self._set_view(then, replica + 1, self._forgotten(view, key))
                    yield f"{who} forgets {self._id(key)}", then, None
            if kind == OFFERED:
                decided = self._decide(
                    view,
                    "expire_offers",
                    key,
                    lambda lock, key=key: leases.expire_offers(lock, (self._id(key),)),  # type: ignore[misc]
                )
                yield from self._told_of(
                    state, decided, f"{who} takes the offer to {self._id(key)} back", "grant"
                )
            crashed = state[self._flags + self._owner(key)] & CRASHED
            if kind in _STANDS and (b.ends == "any" or (b.ends == "crashed" and crashed)):
                decided = self._decide(
                    view,
                    "end",
                    key,
                    lambda lock, key=key: leases.end(lock, (self._id(key),), "node_lost"),  # type: ignore[misc]
                )
                yield from self._told_of(state, decided, f"{who} ends {self._id(key)}", "hand_over")
        decided = self._decide(view, "settle", 0, leases.settle)
        yield from self._told_of(
            state,
            decided,
            f"{who} hands over what is free",
            "grant",
            unconditional="settle_unconditional" in b.flaws,
        )

    def _told_of(
        self,
        state: bytes,
        decided: Decided | None,
        told: str,
        what: Literal["acquire", "grant", "hand_over", "touch"],
        *,
        unconditional: bool = False,
    ) -> Iterator[tuple[str, bytearray, str | None]]:
        if decided is None:
            return
        done = self._commit(state, decided, what=what, unconditional=unconditional)
        if done is not None:
            yield told, *done

    def _command_steps(
        self, state: bytes, view: tuple[bytes, bytes], who: str, key: int
    ) -> Iterator[tuple[str, bytearray, str | None]]:
        """Requests that reach a replica, at whatever time."""
        b, client = self.bounds, self._owner(key)
        id, kind = self._id(key), view[1][key] & _KIND
        flags = state[self._flags + client]
        current = bool(flags & ACTIVE) and self._key(state, client) == key
        if state[self._left + key]:
            decided = self._decide(
                view,
                "acquire",
                key,
                lambda lock: leases.acquire(lock, self._requests[key], id),
            )
            for _, then, rule in self._told_of(
                state,
                decided,
                "",
                "acquire",
                unconditional="acquire_unconditional" in b.flaws,
            ):
                then[self._left + key] -= 1
                took = then[self._kinds + key] == HELD
                yield f"{who} {'grants' if took else 'queues'} {id}", then, rule
        if kind in (HELD, OFFERED) and current and state[self._budgets]:
            decided = self._decide(
                view,
                "renew",
                key,
                lambda lock: leases.renewing(
                    lock, id, lock.claims[id].token if id in lock.claims else 1, None
                ),
            )
            unconditional = "renewal_unconditional" in b.flaws
            # One's own renewal is the same unless the replica is behind.
            if unconditional:
                for told, then, rule in self._told_of(
                    state, decided, f"{who} renews {id}", "touch", unconditional=True
                ):
                    then[self._budgets] -= 1
                    yield told, then, rule
        if kind == WAITING and current and state[self._budgets + 1]:
            decided = self._decide(view, "keep", key, lambda lock: leases.waiting_kept(lock, id))
            for told, then, rule in self._told_of(
                state, decided, f"{who} keeps {id} waiting", "touch"
            ):
                then[self._budgets + 1] -= 1
                if not b.final:
                    then[self._flags + client] |= OPEN
                yield told, then, rule
        if kind in _STANDS and state[self._over + key]:
            yield from self._release_steps(state, view, who, key)

    def _release_steps(
        self, state: bytes, view: tuple[bytes, bytes], who: str, key: int
    ) -> Iterator[tuple[str, bytearray, str | None]]:
        """It is given back: its end and the grant as one, or the grant alone, which says so."""
        id, two = self._id(key), "two_step_hand_over" in self.bounds.flaws

        def release(lock: Lock) -> object:
            known = lock.claims.get(id)
            return leases.release(lock, id, known.token if known is not None else 0)

        together = self._decide(view, "release", key, release)
        alone = self._decide(view, "hand on", key, release)
        if together is not None and two:
            together = Decided(together.events[:1], together.ended, together.expects)
        for told, then, rule in self._told_of(state, together, f"{who} releases {id}", "hand_over"):
            if two:
                then[self._client_seq + 3 * self._owner(key) + 2] = then[3 * key]
            yield told, then, rule
        if not two and together is not None and together != alone:
            yield from self._told_of(state, alone, f"{who} hands {id} on", "hand_over")
        cleared = self._cleared(view, key)
        if cleared is not None:
            yield from self._told_of(state, cleared, f"{who} clears {id} away", "touch")
        # A renewal that was sent before may come in only now.
        if state[self._kinds + key] & _KIND == HELD and state[self._budgets]:
            at = 3 * key
            standing = self._standing(
                key, state[self._kinds + key], state[at], state[at + 1], state[at + 2]
            )
            record = self._record(key, leases.renewed(standing))
            late = Decided((msgspec.structs.replace(record, own=standing.revision),))
            for told, then, rule in self._told_of(
                state, late, f"a renewal of {id} comes late", "touch"
            ):
                then[self._budgets] -= 1
                yield told, then, rule

    def _cleared(self, view: tuple[bytes, bytes], key: int) -> Decided | None:
        """What removes the record of a claim that was handed on."""
        cached = (view, "clear", key)
        if cached not in self._decisions:
            self._decisions[cached] = None
            for standing in self._registry(*view).leftovers(TOKEN):
                if standing.id == self._id(key):
                    gone = Event(key, MARKER, own=standing.revision)
                    self._decisions[cached] = Decided((gone,), frozenset((key,)))
        return self._decisions[cached]

    def _deliveries(
        self, state: bytes, replica: int, view: tuple[bytes, bytes]
    ) -> Iterator[tuple[str, bytearray, str | None]]:
        lags = self._lags_of(state)
        place = max(lags) - lags[replica]
        at = self._log_seq + 3 * place
        key, code = state[self._log + place], state[self._log_kinds + place]
        what = ("", "has ended", "waits", "holds", "is offered it")[code & _KIND]
        then = bytearray(state)
        self._set_view(then, replica + 1, self._applied(view, (key, code, *state[at : at + 3])))
        self._caught_up(then, replica, lags[replica] - 1)
        yield f"a replica {lags[replica]} behind learns that {self._id(key)} {what}", then, None
        if self.bounds.lossy and state[3 * key] != state[at]:
            then = bytearray(state)
            self._caught_up(then, replica, lags[replica] - 1)
            yield f"a replica misses that {self._id(key)} {what}", then, None

    def _caught_up(self, state: bytearray, replica: int, lag: int) -> None:
        """A replica is only so far behind; what all have been told leaves the log."""
        b = self.bounds
        length = max(self._lags_of(state))
        state[self._lags + replica] = lag
        gone = length - max(self._lags_of(state))
        if gone:
            for log in (self._log, self._log_kinds):
                state[log : log + b.lag] = state[log + gone : log + b.lag] + bytes(gone)
            seqs = state[self._log_seq + 3 * gone : self._client_seq]
            state[self._log_seq : self._client_seq] = seqs + bytes(3 * gone)

    def _broker_steps(self, state: bytes) -> Iterator[tuple[str, bytearray, str | None]]:
        """Lives and markers come to their end."""
        b = self.bounds
        markers = [
            (state[3 * key], key) for key in range(self._keys) if state[self._kinds + key] == MARKER
        ]
        if markers:
            # They stand equally long, so the first to come is the first to go.
            _, key = min(markers)
            then = bytearray(state)
            then[self._kinds + key] = NONE
            then[3 * key : 3 * key + 3] = bytes(3)
            yield f"the marker of {self._id(key)} vanishes", then, None
        for key in range(self._keys):
            if state[self._kinds + key] & _KIND not in _STANDS:
                if state[self._due + key]:
                    then = bytearray(state)
                    then[self._due + key] = 0
                    yield f"the marker on its way to {self._id(key)} finds nothing", then, None
                continue
            if state[self._due + key]:
                yield from self._expire(state, key, "the marker on its way wipes")
            elif state[self._budgets + 2] and self._may_be_due(state, key):
                if b.late_markers == "no":
                    for told, then, rule in self._expire(state, key, "it ends:"):
                        then[self._budgets + 2] -= 1
                        yield told, then, rule
                else:
                    then = bytearray(state)
                    then[self._budgets + 2] -= 1
                    then[self._due + key] = UNDER_WAY
                    yield f"{self._id(key)} is due, its marker on its way", then, None

    def _may_be_due(self, state: bytes, key: int) -> bool:
        """A record outlives what its client may believe, whoever may forget it."""
        if "expiry_before_the_deadline" in self.bounds.flaws:
            return True
        client = self._owner(key)
        flags = state[self._flags + client]
        current = bool(flags & ACTIVE) and self._key(state, client) == key
        return not (current and flags & OPEN)

    def _expire(
        self, state: bytes, key: int, told: str
    ) -> Iterator[tuple[str, bytearray, str | None]]:
        gone = Decided((Event(key, MARKER),), frozenset((key,)))
        done = self._commit(state, gone, what="expire")
        if done is not None:
            yield f"{told} {self._id(key)}", *done

    # What must hold in every state

    def broken(self, state: bytes) -> str | None:
        b = self.bounds
        believers = 0
        effective = self._effective(state)
        for client in range(self._clients):
            if state[self._flags + client] & BELIEVES and b.ends != "any":
                believers += 1
                key = self._key(state, client)
                token = state[3 * key + 1] or state[3 * key]
                at = self._client_seq + 3 * client
                if effective[key] != HELD or token != state[at + 1]:
                    return f"{'ABCDEF'[client]} believes that it holds, and does not"
        if believers > b.slots:
            return f"more than {b.slots} believe that they hold it"
        table = self._view(state, 0)
        if table not in self._drains:
            self._drains[table] = self._stuck(table)
        if (stuck := self._drains[table]) is not None:
            return stuck
        if not b.lossy:
            for replica in range(b.replicas):
                if not state[self._lags + replica]:
                    known = self._view(state, replica + 1)
                    if self._claims(known) != self._claims(table):
                        return "a replica that has been told everything knows other claims"
        return None

    def _claims(self, table: tuple[bytes, bytes]) -> list[tuple[int, bytes]]:
        return [
            (code, table[0][3 * key : 3 * key + 3])
            for key, code in enumerate(table[1])
            if code & _KIND in _STANDS
        ]

    def _stuck(self, table: tuple[bytes, bytes]) -> str | None:
        """Whether a waiter stands that an up-to-date replica does not serve; now, where the lock is
        free, or when its holders end one way or another."""
        registry = self._registry(*table)
        lock = registry.lock(TOKEN)
        last = max(table[0][::3], default=0)
        if not (registry.is_last(TOKEN, last) or last in self._known_lasts(registry)):
            return "a replica that knows everything cannot commit"
        if not lock.queue:
            return None
        if len(lock.holders) < self.bounds.slots:
            return self._not_served(leases.settle(lock), lock, "is free")
        for holder in lock.holders:
            why = f"is given back by {holder.id}"
            released = leases.release(lock, holder.id, holder.token)
            if (found := self._not_served(released, lock, why)) is not None:
                return found
            ended = leases.end(lock, (holder.id,), "node_lost")
            if (found := self._not_served(ended, lock, f"is taken from {holder.id}")) is not None:
                return found
        after = lock
        while after.holders:
            # Whose record still stands when that of the next one ends, holds until its own ends.
            for holder in after.holders:
                marker = Told(locks.claim_key(NAME, holder.id), 200, 200, None)
                registry.apply(marker, self._now_fresh)
            after = registry.lock(TOKEN)
        return self._not_served(leases.settle(after), after, "has run out")

    def _known_lasts(self, registry: Registry) -> set[int]:
        return {registry.last(TOKEN, now) for now in (self._now_fresh, self._now_aged)}

    def _not_served(self, step: object, lock: Lock, when: str) -> str | None:
        first = min(
            lock.queue,
            key=lambda s: (-locks.LEVELS[s.claim.priority], s.asked_seq),
        )
        if not isinstance(step, Step) or first.id not in {put.id for put in step.puts}:
            # Told by the state alone: the order that is promised, or nobody.
            return f"it {when}, and {first.id} waits for ever"
        return None
