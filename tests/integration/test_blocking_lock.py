"""Locks in plain scripts: held in the background, checked by the script."""

import threading
import uuid
from collections.abc import Iterator

import pytest

import interlock
from interlock.blocking import BlockingFleet
from interlock.errors import (
    BusUnavailable,
    InterlockError,
    LeaseLost,
    LockBusy,
    LockDeadlock,
    LockRefused,
    LockTimeout,
)
from interlock_schemas import locks
from tests.conftest import PATIENCE_S, Up


@pytest.fixture
def plain(up: Up) -> Iterator[BlockingFleet]:
    with interlock.connect_blocking(up.settings, source="plain") as fleet:
        yield fleet


@pytest.fixture
def name() -> str:
    return f"plain:{uuid.uuid4().hex}"


def end(fleet: BlockingFleet, name: str) -> None:
    """Take it away, as an operator does."""
    request = locks.EndLock(name=name, reason="test")
    fleet._wait(fleet._fleet.command(locks.END, request))


def test_a_script_holds_a_lock_for_a_block(plain: BlockingFleet, name: str) -> None:
    with plain.lock(name, ttl=5, note="test") as lease:
        assert lease.name == name
        assert lease.held
        assert 0 < lease.remaining_s <= 5
        assert not lease.lost.is_set()
        assert lease.lost_reason == ""
        lease.check()
        assert lease.headers() == {
            locks.LOCK_HEADER: name,
            locks.TOKEN_HEADER: str(lease.token),
        }
        with pytest.raises(LockBusy), plain.lock(name, wait=0):
            pass
        with pytest.raises(LockTimeout), plain.lock(name, wait=0.2, owner="somebody"):
            pass
    with pytest.raises(LeaseLost):
        lease.check()
    with plain.lock(name, wait=0) as again:
        assert again.token > lease.token


def test_what_is_put_under_a_lock_is_read_by_all(plain: BlockingFleet, name: str) -> None:
    assert plain.fenced_state(name) is None
    with plain.lock(name) as lease:
        assert lease.put(name, b"one") < lease.put(name, b"two")
    assert plain.fenced_state(name) == b"two"
    with pytest.raises(LeaseLost):
        lease.put(name, b"three")
    assert plain.fenced_state(name) == b"two"


def test_an_error_of_the_block_comes_out_and_the_lock_goes_back(
    plain: BlockingFleet, name: str
) -> None:
    with pytest.raises(ZeroDivisionError), plain.lock(name):
        _ = 1 / 0
    with plain.lock(name, wait=0):
        pass


def lose(fleet: BlockingFleet, name: str, error: Exception | None = None) -> None:
    """A block whose lock is taken away, and which then ends with an error or without."""
    with fleet.lock(name, ttl=60) as lease:
        end(fleet, name)
        assert lease.lost.wait(PATIENCE_S)
        assert not lease.held
        assert lease.lost_reason
        for step in (lease.check, lease.headers, lambda: lease.put(name, b"late")):
            with pytest.raises(LeaseLost):
                step()
        if error is not None:
            raise error


def test_a_block_whose_lease_was_lost_does_not_end_in_success(
    plain: BlockingFleet, name: str
) -> None:
    with pytest.raises(LeaseLost):
        lose(plain, name)
    with pytest.raises(ZeroDivisionError):
        lose(plain, name, ZeroDivisionError())
    with plain.lock(name, wait=0):
        pass
    assert plain.fenced_state(name) is None


def test_a_thread_that_waits_for_itself_is_refused(plain: BlockingFleet, name: str) -> None:
    with plain.lock(name), pytest.raises(LockDeadlock), plain.lock(name, wait=30):
        pass


def test_threads_take_turns(plain: BlockingFleet, name: str) -> None:
    inside: list[int] = []
    tokens: list[int] = []

    def work() -> None:
        for _ in range(5):
            with plain.lock(name) as lease:
                inside.append(1)
                assert len(inside) == 1
                tokens.append(lease.token)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE_S)
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 20


def test_a_thread_that_waits_is_told_when_the_connection_is_closed(up: Up, name: str) -> None:
    errors: list[InterlockError] = []
    queued = threading.Event()

    def wait(fleet: BlockingFleet) -> None:
        queued.set()
        try:
            with fleet.lock(name):
                pass
        except InterlockError as error:
            errors.append(error)

    with interlock.connect_blocking(up.settings) as holder, holder.lock(name, ttl=60):
        with interlock.connect_blocking(up.settings) as fleet:
            thread = threading.Thread(target=wait, args=(fleet,))
            thread.start()
            assert queued.wait(PATIENCE_S)
            show = locks.ShowLock(name=name)
            while not holder._wait(holder._fleet.command(locks.SHOW, show)).waiting:
                pass
        thread.join(timeout=PATIENCE_S)
        assert not thread.is_alive()
        assert isinstance(errors[0], BusUnavailable)


def test_a_lock_held_when_the_connection_closes_is_given_back(up: Up, name: str) -> None:
    with interlock.connect_blocking(up.settings) as fleet:
        held = fleet.lock(name)
        lease = held.__enter__()
    with pytest.raises(LeaseLost):
        held.__exit__(None, None, None)
    assert not lease.held
    with interlock.connect_blocking(up.settings) as other, other.lock(name, wait=0):
        pass


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": 0}, {"ttl": float("nan")}, {"ttl": 1e9}, {"wait": -1}, {"wait": float("nan")},
        {"slots": 0}, {"priority": "urgent"}, {"max_age": 0}, {"note": "x" * 201},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(
    plain: BlockingFleet, name: str, options: dict[str, float | str]
) -> None:
    with pytest.raises(LockRefused), plain.lock(name, **options):  # type: ignore[arg-type]
        pass
