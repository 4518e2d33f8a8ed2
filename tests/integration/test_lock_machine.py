"""The lock service beside a model of a few lines: whatever is asked, both come to the same.

``INTERLOCK_LOCK_MACHINE=thorough`` looks for as long as a coffee takes.
"""

import asyncio
import itertools
import os
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from interlock.bus import Write
from interlock.conditional import expecting
from interlock.errors import CommandFailed, WrongRevision
from interlock.fleet import Fleet
from interlock_schemas import locks
from interlock_schemas.locks import (
    LEVELS,
    AcquireLock,
    ClaimAnswer,
    EndLock,
    KeepWaiting,
    LockView,
    Priority,
    ReleaseLock,
    RenewLock,
)
from interlock_schemas.topology import LOCKS
from tests.integration.lock_fleet import LockFleet

T = TypeVar("T")

_THOROUGH = os.environ.get("INTERLOCK_LOCK_MACHINE") == "thorough"
_COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "report_multiple_bugs": False,
}
settings.register_profile(
    "locks", max_examples=16, stateful_step_count=30, derandomize=True, **_COMMON
)
settings.register_profile("locks-thorough", max_examples=150, stateful_step_count=60, **_COMMON)

#: Waiting claims live for six seconds.
_KEEP_S = 2.0
_PATIENCE_S = 10.0
#: A fleet starts replicas for about a second each.
_KILLS = 40 if _THOROUGH else 3
_EXPIRIES = 60 if _THOROUGH else 4

_names = itertools.count(1)


class World:
    """A fleet and a loop that runs only while it is asked."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        # Who is handed a lock takes it up at the end of a step.
        self.fleet = LockFleet(folder, settings={"INTERLOCK_TAKE_UP_S": "5"})
        self._running = self.fleet.running(replicas=2)
        self.run(self._running.__aenter__())
        self.client: Fleet = self.run(self.fleet.client())
        self.kills = 0
        self.expiries = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def ask(self, command: Any, request: Any) -> Any:
        return self.run(self.client.command(command, request, timeout_s=2, patience_s=20))

    def refused(self, command: Any, request: Any) -> str:
        """The code with which it is refused."""
        with pytest.raises(CommandFailed) as refused:
            self.ask(command, request)
        return refused.value.code

    def close(self) -> None:
        self.run(self._running.__aexit__(None, None, None))
        self.run(self.loop.shutdown_asyncgens())
        self.loop.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


class Locks(RuleBasedStateMachine):
    """One lock. Who holds it: `holders`, by token; who waits: `queue`, in order of service."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.name = f"model:{next(_names)}"
        self.slots = 1
        self.holders: dict[str, int] = {}
        self.queue: list[tuple[int, int, str]] = []
        self.revisions: dict[str, int] = {}
        self.over: list[tuple[str, int]] = []
        """Claims whose record is gone: id, and a revision that they had."""
        self.highest = 0
        self.numbers = itertools.count(1)
        self.kept_at = world.loop.time()

    # What is asked

    def request(self, id: str, *, wait: bool, priority: Priority = "normal") -> AcquireLock:
        return AcquireLock(
            name=self.name, id=id, wait=wait, priority=priority, slots=self.slots, ttl_s=60.0
        )

    @property
    def free(self) -> bool:
        return len(self.holders) < self.slots and not self.queue

    def grant(self, id: str, token: int) -> None:
        assert token > self.highest
        self.highest = self.holders[id] = token

    def hand_over(self) -> None:
        """Whatever has come free is with who is next: take it up."""
        due: list[str] = []
        while len(self.holders) + len(due) < self.slots and self.queue:
            due.append(self.queue.pop(0)[2])
        if not due:
            return
        granted = self.agreed(lambda view: set(due) <= {each.id for each in view.holders})
        tokens = {each.id: each.token for each in granted.holders}
        for id in due:
            self.grant(id, tokens[id])
            self.renew(id)

    def renew(self, id: str) -> None:
        answer: ClaimAnswer = self.world.ask(
            locks.RENEW, RenewLock(name=self.name, id=id, token=self.holders[id], ttl_s=60.0)
        )
        assert answer.token == self.holders[id]
        self.revisions[id] = answer.revision

    def agreed(self, check: Any) -> LockView:
        """The lock as it is shown, once it is so; as it is shown last, where it does not come."""
        deadline = self.world.loop.time() + _PATIENCE_S
        while True:
            view = self.world.run(self.world.fleet.show(self.name))
            if check(view) or self.world.loop.time() > deadline:
                return view
            self.world.run(asyncio.sleep(0.02))

    def pick(self, data: st.DataObject, ids: list[str]) -> str:
        return data.draw(st.sampled_from(sorted(ids)))

    def waiting(self) -> list[str]:
        return [id for _, _, id in self.queue]

    @initialize(slots=st.integers(1, 2))
    def begin(self, slots: int) -> None:
        self.slots = slots

    @rule()
    def acquire_without_waiting(self) -> None:
        id = f"n{next(self.numbers)}"
        request = self.request(id, wait=False)
        if self.free:
            answer = self.world.ask(locks.ACQUIRE, request)
            assert (answer.state, answer.fresh) == ("held", True)
            self.grant(id, answer.token)
            self.revisions[id] = answer.revision
        else:
            assert self.world.refused(locks.ACQUIRE, request) == "423"

    @rule(priority=st.sampled_from(sorted(LEVELS)))
    def queue_up(self, priority: Priority) -> None:
        number = next(self.numbers)
        id = f"w{number}"
        free = self.free
        answer = self.world.ask(locks.ACQUIRE, self.request(id, wait=True, priority=priority))
        if free:
            assert answer.state == "held"
            self.grant(id, answer.token)
            self.revisions[id] = answer.revision
        else:
            self.queue.append((-LEVELS[priority], number, id))
            self.queue.sort()
            assert (answer.state, answer.position) == ("waiting", self.waiting().index(id) + 1)

    @precondition(lambda self: self.holders or self.queue)
    @rule(data=st.data())
    def ask_again(self, data: st.DataObject) -> None:
        id = self.pick(data, [*self.holders, *self.waiting()])
        answer = self.world.ask(locks.ACQUIRE, self.request(id, wait=True))
        assert answer.state == ("held" if id in self.holders else "waiting")
        assert answer.token == self.holders.get(id, 0)
        assert not answer.fresh

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = self.pick(data, self.waiting())
        ended = self.world.ask(locks.RELEASE, ReleaseLock(name=self.name, id=id))
        assert ended.tokens == ()
        self.queue = [each for each in self.queue if each[2] != id]

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), at_once=st.booleans())
    def release(self, data: st.DataObject, at_once: bool) -> None:
        id = self.pick(data, list(self.holders))
        token = self.holders.pop(id)
        ended = self.world.ask(
            locks.RELEASE, ReleaseLock(name=self.name, id=id, token=token, at_once=at_once)
        )
        assert ended.tokens == (token,)
        assert bool(ended.next_token) == bool(self.queue)
        if at_once:
            self.over.append((id, self.revisions[id]))
        self.hand_over()

    @precondition(lambda self: self.holders or self.queue)
    @rule(data=st.data(), wrong=st.sampled_from([-1, 1, 1 << 40]))
    def show_a_foreign_token(self, data: st.DataObject, wrong: int) -> None:
        id = self.pick(data, [*self.holders, *self.waiting()])
        foreign = max(1, self.holders.get(id, 1 << 30) + wrong)
        for command, request in (
            (locks.RELEASE, ReleaseLock(name=self.name, id=id, token=foreign)),
            (locks.RENEW, RenewLock(name=self.name, id=id, token=foreign)),
        ):
            assert self.world.refused(command, request) == "409"
        if id in self.holders:
            forgotten = ReleaseLock(name=self.name, id=id)
            assert self.world.refused(locks.RELEASE, forgotten) == "409"

    @rule()
    def speak_of_what_is_not_there(self) -> None:
        for command, request in (
            (locks.RELEASE, ReleaseLock(name=self.name, id="nobody", token=7)),
            (locks.RENEW, RenewLock(name=self.name, id="nobody", token=7)),
            (locks.KEEP, KeepWaiting(name=self.name, id="nobody")),
        ):
            assert self.world.refused(command, request) == "410"

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def renew_one(self, data: st.DataObject) -> None:
        self.renew(self.pick(data, list(self.holders)))

    @precondition(lambda self: self.holders and self.world.expiries < _EXPIRIES)
    @rule(data=st.data())
    def let_one_expire(self, data: st.DataObject) -> None:
        self.world.expiries += 1
        id = self.pick(data, list(self.holders))
        token = self.holders.pop(id)
        answer = self.world.ask(
            locks.RENEW, RenewLock(name=self.name, id=id, token=token, ttl_s=1.0)
        )
        self.agreed(lambda view: id not in {each.id for each in view.holders})
        self.over.append((id, answer.revision))
        self.hand_over()

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), everybody=st.booleans())
    def end(self, data: st.DataObject, everybody: bool) -> None:
        ids = list(self.holders) if everybody else [self.pick(data, list(self.holders))]
        tokens = tuple(sorted(self.holders.pop(id) for id in ids))
        ended = self.world.ask(
            locks.END,
            EndLock(
                name=self.name, reason="a test", by="test", token=None if everybody else tokens[0]
            ),
        )
        assert ended.tokens == tokens
        self.over += [(id, self.revisions[id]) for id in ids]
        self.hand_over()

    def write(self, id: str, revision: int) -> None:
        fence = expecting(revision, locks.claim_subject(self.name, id))
        subject = LOCKS.key_subject(locks.state_key(self.name))
        self.world.run(
            self.world.client.bus.commit([Write(subject, id.encode(), fence)], timeout_s=10)
        )

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def write_under_it(self, data: st.DataObject) -> None:
        id = self.pick(data, list(self.holders))
        self.write(id, self.revisions[id])
        assert self.world.run(self.world.client.fenced_state(self.name)) == id.encode()

    @precondition(lambda self: self.over)
    @rule(data=st.data())
    def write_under_what_is_over(self, data: st.DataObject) -> None:
        before = self.world.run(self.world.client.fenced_state(self.name))
        id, revision = data.draw(st.sampled_from(self.over))
        with pytest.raises(WrongRevision):
            self.write(id, revision)
        assert self.world.run(self.world.client.fenced_state(self.name)) == before

    @precondition(lambda self: self.world.kills < _KILLS)
    @rule()
    def kill_a_replica(self) -> None:
        self.world.kills += 1
        fleet = self.world.fleet
        self.world.run(fleet.kill_replica(fleet.replicas[0]))
        self.keep()
        self.world.run(fleet.start_replica())

    # What is compared

    def keep(self) -> None:
        for id in self.waiting():
            answer = self.world.ask(locks.KEEP, KeepWaiting(name=self.name, id=id))
            assert answer.state == "waiting"
        self.kept_at = self.world.loop.time()

    @invariant()
    def the_service_shows_what_the_model_says(self) -> None:
        if self.world.loop.time() - self.kept_at > _KEEP_S:
            self.keep()

        def shown(view: LockView) -> tuple[list[tuple[str, int]], list[str]]:
            return [(each.id, each.token) for each in view.holders], [
                each.id for each in view.waiting
            ]

        model = sorted(self.holders.items(), key=lambda each: each[1]), self.waiting()
        assert shown(self.agreed(lambda view: shown(view) == model)) == model

    def teardown(self) -> None:
        for id in self.waiting():
            self.world.ask(locks.RELEASE, ReleaseLock(name=self.name, id=id))
        for id, token in self.holders.items():
            self.world.ask(locks.RELEASE, ReleaseLock(name=self.name, id=id, token=token))


@pytest.mark.timeout(3_600 if _THOROUGH else 120)
def test_the_service_does_as_the_model(world: World) -> None:
    profile = settings.get_profile("locks-thorough" if _THOROUGH else "locks")
    run_state_machine_as_test(lambda: Locks(world), settings=profile)  # type: ignore[arg-type]
