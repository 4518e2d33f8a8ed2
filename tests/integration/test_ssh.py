"""Nodes over SSH, against a real OpenSSH server and servers that misbehave."""

import asyncio
import contextlib
import os
import random
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import asyncssh
import msgspec
import pytest

from interlock.breaker import BreakerPolicy
from interlock.breakers import Breakers
from interlock_health_monitor.ssh_outcome import Outcome, SshFailed
from interlock_health_monitor.ssh_pool import PoolLimits, SshPool
from interlock_health_monitor.ssh_probe import Prober
from interlock_schemas.nodes import NodeRecord, SshAccess
from tests.conftest import eventually
from tests.sshd import EveryAddress, Sshd, free_port, make_key, needs_sshd, private_sshd

pytestmark = needs_sshd

#: Short, so that what hangs does not hold up the tests. Long enough for a busy machine.
QUICK = PoolLimits(connect_s=2.0, login_s=2.0, open_s=2.0, jump_retry_s=0.3)
PATIENT = PoolLimits(connect_s=30.0, login_s=30.0, open_s=30.0)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with private_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def own_sshd(tmp_path: Path) -> Iterator[Sshd]:
    """A server of the test's own, to kill."""
    with private_sshd(tmp_path / "own") as server:
        yield server


@contextlib.asynccontextmanager
async def server(handle: Handler) -> AsyncIterator[int]:
    """A TCP server that does with each connection what it likes."""
    tasks: set[asyncio.Task[None]] = set()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handle(reader, writer)
        except (asyncio.CancelledError, OSError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    listening = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await listening.wait_closed()


def files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, and nothing kept open


def established(port: int) -> int:
    """Connections of this process's loopback to a port."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[2].endswith(f":{port:04X}") and line[3] == "01" for line in lines)


@contextlib.asynccontextmanager
async def nothing_left(*ports: int) -> AsyncIterator[None]:
    """Within the block, whatever is opened is closed again."""
    await asyncio.to_thread(int)
    tasks, had = len(asyncio.all_tasks()), files()
    yield

    async def clean() -> bool:
        return (
            len(asyncio.all_tasks()) <= tasks
            and files() <= had + 1
            and not any(established(port) for port in ports)
        )

    await eventually(clean)


async def outcome_of(access: SshAccess, limits: PoolLimits = QUICK) -> Outcome:
    async with nothing_left(access.port), SshPool(limits=limits) as pool:
        with pytest.raises(SshFailed) as failed:
            await pool.run(access, "true", timeout_s=20)
    return failed.value.outcome


def changed(access: SshAccess, **fields: object) -> SshAccess:
    return msgspec.structs.replace(access, **fields)


async def test_a_host_is_looked_at_in_one_session(sshd: Sshd) -> None:
    node = NodeRecord(name="n", ssh=sshd.access(), paths=("/", "/no/such/folder"))
    async with nothing_left(sshd.port), SshPool(limits=PATIENT) as pool:
        result = await Prober(pool, Breakers()).probe(node)
    assert result.outcome.ok, result.outcome
    assert result.outcome.proves_up
    report = result.report
    assert report is not None
    assert report.complete
    assert report.clock_s is not None
    assert result.asked_at - 0.01 <= report.clock_s <= result.at + 0.01
    assert report.hostname == socket.gethostname()
    assert report.cores
    assert report.memory_available_bytes
    assert report.disks[0].used_percent is not None
    assert report.disks[1].used_percent is None
    assert report.agent_running is not None


async def test_looks_share_one_connection(sshd: Sshd) -> None:
    node = NodeRecord(name="n", ssh=sshd.access())
    async with SshPool(limits=PATIENT) as pool:
        prober = Prober(pool, Breakers())
        looks = await asyncio.gather(*(prober.probe(node) for _ in range(5)))
        assert all(look.outcome.ok for look in looks), looks
        assert pool.connections == 1
        assert established(sshd.port) == 1


async def test_the_search_for_the_agent_does_not_find_itself(sshd: Sshd) -> None:
    node = NodeRecord(name="n", ssh=sshd.access())
    running = "pgrep -f '[i]nterlock[_-]node[_-]agent' >/dev/null && echo yes || echo no"
    async with SshPool(limits=PATIENT) as pool:
        report = (await Prober(pool, Breakers()).probe(node)).report
        assert report is not None
        ran = await pool.run(sshd.access(), running, timeout_s=20)
    if ran.stdout.strip() == b"no":
        assert report.agent_running is False


async def test_a_wrong_host_key_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    wrong = (tmp_path / "other.pub").read_text()
    outcome = await outcome_of(changed(sshd.access(), host_key=wrong), PATIENT)
    assert (outcome.kind, outcome.cause) == ("host_key", "mismatch")
    assert outcome.speaks_for_down == "none"


async def test_a_host_key_of_another_kind_is_refused_for_the_key(
    sshd: Sshd, tmp_path: Path
) -> None:
    make_key(tmp_path / "other", "ecdsa")
    wrong = (tmp_path / "other.pub").read_text()
    outcome = await outcome_of(changed(sshd.access(), host_key=wrong), PATIENT)
    assert (outcome.kind, outcome.cause) == ("host_key", "mismatch")


async def test_no_host_is_trusted_on_first_use(sshd: Sshd) -> None:
    outcome = await outcome_of(changed(sshd.access(), host_key=None))
    assert (outcome.kind, outcome.cause) == ("host_key", "unknown")


async def test_the_file_of_known_hosts_vouches_for_a_host(sshd: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sshd.port} {sshd.host_key}\n")
    access = changed(sshd.access(), host_key=None, identity=None)
    async with SshPool(known_hosts=known, identity=sshd.identity, limits=PATIENT) as pool:
        assert (await pool.run(access, "exit 4", timeout_s=20)).exit_status == 4
    known.write_text(f"elsewhere {sshd.host_key}\n")
    async with SshPool(known_hosts=known, identity=sshd.identity) as pool:
        with pytest.raises(SshFailed) as failed:
            await pool.run(access, "true", timeout_s=20)
    assert failed.value.outcome.cause == "unknown"


async def test_a_wrong_user_and_a_wrong_key_are_not_let_in(sshd: Sshd, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    for wrong in (
        changed(sshd.access(), user="nobody-of-this-name"),
        changed(sshd.access(), identity=str(tmp_path / "other")),
    ):
        outcome = await outcome_of(wrong, PATIENT)
        assert outcome.kind == "auth"
        assert outcome.proves_up


@pytest.mark.parametrize("content", [None, "", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"])
async def test_an_identity_that_cannot_be_used_is_our_own_fault(
    sshd: Sshd, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "identity"
    if content is not None:
        path.write_text(content)
    outcome = await outcome_of(changed(sshd.access(), identity=str(path)))
    assert outcome.kind == "config"
    assert outcome.counts_as == "neutral"


async def test_a_refused_port_and_a_name_that_is_none(sshd: Sshd) -> None:
    refused = await outcome_of(changed(sshd.access(), port=free_port()))
    assert (refused.kind, refused.cause) == ("unreachable", "refused")
    assert refused.speaks_for_down == "strong"
    nowhere = await outcome_of(changed(sshd.access(), host="no-such-host.invalid"))
    assert nowhere.kind == "name_not_resolved"


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def banner_alone(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    await reader.read(-1)


@pytest.mark.parametrize("handler", [silent, banner_alone])
async def test_a_server_that_accepts_and_says_no_more_is_hanging(
    sshd: Sshd, handler: Handler
) -> None:
    async with server(handler) as port:
        limits = msgspec.structs.replace(QUICK, login_s=0.2)
        outcome = await outcome_of(changed(sshd.access(), port=port), limits)
    assert (outcome.kind, outcome.cause) == ("hanging", "login_timed_out")
    assert outcome.speaks_for_down == "weak"


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-1.5-old\r\n",
        b"\0" * 100_000,
        b"Permission denied\r\n" * 5_000,
        b"SSH-2.0-OpenSSH_9.2\r\n" + b"\xff" * 5_000,
        b"",
    ],
)
async def test_garbage_instead_of_a_banner_is_no_evidence(sshd: Sshd, said: bytes) -> None:
    async def garbage(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()

    async with server(garbage) as port:
        outcome = await outcome_of(changed(sshd.access(), port=port))
    assert outcome.kind == "protocol"
    assert outcome.speaks_for_down == "none"
    assert outcome.against == "node"


async def test_no_bytes_of_a_server_come_out_as_anything_but_an_outcome(sshd: Sshd) -> None:
    draw = random.Random(7)
    hello = b"SSH-2.0-OpenSSH_9.2\r\n"

    async def noise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Whole packets of messages that may come before keys are exchanged, with noise in them.
        body = bytes([draw.choice([1, 2, 3, 4, 5, 6, 7, 20, 21, 30, 31, 50, 80, 90, 99])])
        body += draw.randbytes(draw.randrange(40))
        padding = 8 - (len(body) + 5) % 8 + 8
        packet = (len(body) + padding + 1).to_bytes(4, "big") + bytes([padding]) + body
        writer.write(hello + (packet + bytes(padding)) * draw.randrange(1, 4))
        await reader.read(-1)

    async with server(noise) as port, SshPool(limits=QUICK) as pool:
        pool.limits = msgspec.structs.replace(QUICK, login_s=0.3)
        for _ in range(40):
            with pytest.raises(SshFailed) as failed:
                await pool.run(changed(sshd.access(), port=port), "true", timeout_s=5)
            assert failed.value.outcome.kind in ("protocol", "hanging", "host_key")


async def test_a_server_that_dies_under_a_command(own_sshd: Sshd) -> None:
    async with nothing_left(own_sshd.port), SshPool(limits=PATIENT) as pool:
        running = asyncio.create_task(
            pool.run(own_sshd.access(), "sleep 300", timeout_s=60, fresh=True)
        )

        async def started() -> bool:
            return "Starting session" in own_sshd.log

        await eventually(started)
        own_sshd.stop()
        with pytest.raises(SshFailed) as failed:
            await running
    assert (failed.value.outcome.kind, failed.value.outcome.cause) == (
        "protocol",
        "lost_in_command",
    )
    assert failed.value.outcome.proves_up


async def test_a_kept_connection_that_broke_is_no_evidence(own_sshd: Sshd) -> None:
    async with SshPool(limits=PATIENT) as pool:
        await pool.run(own_sshd.access(), "true", timeout_s=20)
        own_sshd.stop()
        own_sshd.start()
        ran = await pool.run(own_sshd.access(), "echo again", timeout_s=20)
        assert ran.stdout == b"again\n"
        assert pool.connections == 1


async def test_a_command_that_floods_is_ended_and_what_is_kept_is_bounded(sshd: Sshd) -> None:
    async with nothing_left(sshd.port), SshPool(limits=PATIENT) as pool:
        ran = await pool.run(sshd.access(), "yes", timeout_s=60, max_output_bytes=10_000)
        assert ran.truncated
        assert len(ran.stdout) == 10_000
        assert ran.exit_status is None
        again = await pool.run(sshd.access(), "echo ok", timeout_s=20)
        assert again.stdout == b"ok\n"


async def test_a_long_answer_is_cut_and_the_command_ends_by_itself(sshd: Sshd) -> None:
    async with SshPool(limits=PATIENT) as pool:
        ran = await pool.run(
            sshd.access(),
            "head -c 50000 /dev/zero; exit 3",
            timeout_s=60,
            max_output_bytes=10_000,
        )
    assert (ran.truncated, len(ran.stdout), ran.exit_status) == (True, 10_000, 3)


async def test_a_command_that_never_ends_is_given_up(sshd: Sshd) -> None:
    async with nothing_left(sshd.port), SshPool(limits=PATIENT) as pool:
        ran = await pool.run(sshd.access(), "echo begun; exec sleep 20", timeout_s=0.3)
        assert ran.timed_out
        assert ran.stdout == b"begun\n"
        assert (await pool.run(sshd.access(), "true", timeout_s=20)).exit_status == 0


async def test_a_command_of_recovery_that_never_ends_is_ended_on_the_host(sshd: Sshd) -> None:
    lasts = f"3600.{os.getpid()}"
    node = NodeRecord(name="n", ssh=sshd.access())
    async with SshPool(limits=PATIENT) as pool:
        result = await Prober(pool, Breakers()).run_command(node, f"sleep {lasts} & wait", 1.0)
    assert result.outcome.cause == "command_timed_out"
    found = await asyncio.to_thread(
        subprocess.run, ["pgrep", "-f", f"sleep {lasts}"], capture_output=True, check=False
    )
    assert found.returncode == 1


async def test_what_a_command_leaves_in_the_background_holds_nobody_up(sshd: Sshd) -> None:
    node = NodeRecord(name="n", ssh=sshd.access())
    async with SshPool(limits=PATIENT) as pool:
        result = await Prober(pool, Breakers()).run_command(node, "sleep 10 & echo started", 8.0)
    assert result.outcome.ok
    assert result.ran is not None
    assert result.ran.stdout == b"started\n"


@pytest.mark.parametrize("behind", [False, True])
async def test_a_cancelled_look_leaves_nothing_behind(sshd: Sshd, behind: bool) -> None:
    access = sshd.access(jump=(sshd.access(),) if behind else ())
    stand = 2 if behind else 1
    async with nothing_left(sshd.port), SshPool(limits=PATIENT) as pool:
        for wait_s in (0.0, 0.01, 0.02, 0.04, 0.06, 0.1):
            running = asyncio.create_task(pool.run(access, "sleep 300", timeout_s=300))
            await asyncio.wait([running], timeout=wait_s)
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled()
        assert (await pool.run(access, "echo ok", timeout_s=20)).stdout == b"ok\n"

        async def only_what_is_kept() -> bool:
            channels = sum(len(link.connection._channels) for link in pool._links.values())
            return pool.connections == stand and channels == stand - 1 and not pool._tasks

        await eventually(only_what_is_kept)
        # Within the server's limit of sessions: none is held by what was cancelled.
        many = await asyncio.gather(*(pool.run(access, "true", timeout_s=20) for _ in range(8)))
        assert all(each.exit_status == 0 for each in many)
        assert pool.connections == stand


async def test_to_close_the_pool_ends_what_goes_on(sshd: Sshd) -> None:
    async with nothing_left(sshd.port):
        async with SshPool(limits=PATIENT) as pool:
            running = [
                asyncio.create_task(pool.run(access, "sleep 300", timeout_s=300))
                for access in (sshd.access(), sshd.access(jump=(sshd.access(),)))
            ]
            await asyncio.wait(running, timeout=0.3)
        for each in running:
            with pytest.raises(SshFailed):
                await each


async def test_an_idle_connection_is_closed_and_then_its_jump_hosts(sshd: Sshd) -> None:
    limits = msgspec.structs.replace(PATIENT, idle_s=0.2)
    async with SshPool(limits=limits) as pool:
        await pool.run(sshd.access(jump=(sshd.access(),)), "true", timeout_s=20)

        async def closed() -> bool:
            return pool.connections == 0 and established(sshd.port) == 0

        await eventually(closed)


async def test_through_two_jump_hosts(sshd: Sshd) -> None:
    inner = changed(sshd.access(), host="localhost")
    access = sshd.access(jump=(sshd.access(), inner))
    async with nothing_left(sshd.port), SshPool(limits=PATIENT) as pool:
        assert (await pool.run(access, "echo hi", timeout_s=20)).stdout == b"hi\n"
        assert pool.connections == 3


async def test_a_jump_host_that_is_down_is_not_held_against_the_node(sshd: Sshd) -> None:
    down = changed(sshd.access(), port=free_port())
    outcome = await outcome_of(sshd.access(jump=(down,)))
    assert (outcome.kind, outcome.cause) == ("unreachable", "refused")
    assert (outcome.against, outcome.host) == ("jump", "127.0.0.1")
    assert outcome.speaks_for_down == "none"
    assert outcome.counts_as == "neutral"


async def test_a_jump_host_with_another_key_is_not_held_against_the_node(
    sshd: Sshd, tmp_path: Path
) -> None:
    make_key(tmp_path / "other")
    other = changed(sshd.access(), host_key=(tmp_path / "other.pub").read_text())
    outcome = await outcome_of(sshd.access(jump=(other,)), PATIENT)
    assert (outcome.kind, outcome.against) == ("host_key", "jump")


async def test_a_node_that_is_down_behind_a_jump_host_that_is_well(sshd: Sshd) -> None:
    access = changed(sshd.access(jump=(sshd.access(),)), port=free_port())
    outcome = await outcome_of(access, PATIENT)
    assert (outcome.kind, outcome.cause) == ("unreachable", "refused_behind_jump")
    assert outcome.against == "node"
    assert outcome.speaks_for_down == "strong"


async def test_a_node_that_hangs_behind_a_jump_host_that_is_well(sshd: Sshd) -> None:
    async with server(silent) as port:
        limits = msgspec.structs.replace(PATIENT, login_s=0.2)
        access = changed(sshd.access(jump=(sshd.access(),)), port=port)
        async with SshPool(limits=PATIENT) as pool:
            await pool.run(sshd.access(), "true", timeout_s=20)
            pool.limits = limits
            with pytest.raises(SshFailed) as failed:
                await pool.run(access, "true", timeout_s=20)
    outcome = failed.value.outcome
    assert (outcome.kind, outcome.cause, outcome.against) == ("hanging", "login_timed_out", "node")


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port of the loopback that answers nothing, as a host without power does."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        yield full.getsockname()[1]


async def test_a_host_that_answers_nothing_at_all(sshd: Sshd) -> None:
    limits = msgspec.structs.replace(PATIENT, connect_s=0.3)
    with black_hole() as port:
        for jump in ((), (sshd.access(),)):
            async with nothing_left(sshd.port), SshPool(limits=PATIENT) as pool:
                await pool.run(sshd.access(), "true", timeout_s=20)
                pool.limits = limits
                access = changed(sshd.access(jump=jump), port=port)
                with pytest.raises(SshFailed) as failed:
                    await pool.run(access, "true", timeout_s=20)
            outcome = failed.value.outcome
            assert (outcome.kind, outcome.cause) == ("unreachable", "timed_out")
            assert outcome.against == "node"
            assert outcome.speaks_for_down == "strong"


async def test_a_jump_host_that_forbids_the_way_is_not_held_against_the_node(
    sshd: Sshd, tmp_path: Path
) -> None:
    with private_sshd(tmp_path / "strict", "AllowTcpForwarding no") as strict:
        outcome = await outcome_of(sshd.access(jump=(strict.access(),)), PATIENT)
    assert (outcome.kind, outcome.cause) == ("config", "forwarding_prohibited")
    assert outcome.against == "jump"


async def test_a_jump_host_that_freezes_is_told_from_the_node(sshd: Sshd, own_sshd: Sshd) -> None:
    async with SshPool(limits=PATIENT) as pool:
        jump = own_sshd.access()
        await pool.run(sshd.access(jump=(jump,)), "true", timeout_s=20)
        pool.limits = msgspec.structs.replace(QUICK, connect_s=0.3, login_s=0.3, open_s=0.3)
        assert own_sshd.process is not None
        frozen = [own_sshd.process.pid, *own_sshd.children()]
        for pid in frozen:
            os.kill(pid, 19)
        try:
            for access in (
                sshd.access(jump=(jump,)),
                changed(sshd.access(jump=(jump,)), user="somebody"),
            ):
                with pytest.raises(SshFailed) as failed:
                    await pool.run(access, "true", timeout_s=20)
                assert failed.value.outcome.against == "jump", failed.value.outcome
                assert failed.value.outcome.speaks_for_down == "none"
        finally:
            for pid in frozen:
                os.kill(pid, 18)


async def test_a_jump_host_that_dies_under_a_command(sshd: Sshd, own_sshd: Sshd) -> None:
    access = sshd.access(jump=(own_sshd.access(),))
    async with nothing_left(own_sshd.port), SshPool(limits=PATIENT) as pool:
        running = asyncio.create_task(pool.run(access, "sleep 300", timeout_s=60, fresh=True))

        async def started() -> bool:
            return pool.connections == 2

        await eventually(started)
        await asyncio.wait([running], timeout=0.3)
        own_sshd.stop()
        with pytest.raises(SshFailed) as failed:
            await running
    assert failed.value.outcome.against == "jump"
    assert failed.value.outcome.speaks_for_down == "none"


async def test_many_behind_a_jump_host_that_hangs_wait_for_one_attempt(sshd: Sshd) -> None:
    came = 0

    async def count(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal came
        came += 1
        await reader.read(-1)

    limits = msgspec.structs.replace(PATIENT, login_s=0.4, behind_jump=10, jump_retry_s=30.0)
    breakers = Breakers()
    async with server(count) as port, SshPool(limits=limits) as pool:
        jump = changed(sshd.access(), port=port)
        prober = Prober(pool, breakers)
        looks = await asyncio.gather(
            *(
                prober.probe(NodeRecord(name=f"n{n}", ssh=sshd.access(host=f"h{n}", jump=(jump,))))
                for n in range(60)
            )
        )
    assert came == 1
    assert {(look.outcome.kind, look.outcome.against) for look in looks} == {("hanging", "jump")}
    assert breakers.open_nodes("ssh") == ()


async def test_a_slow_jump_host_holds_up_its_own_alone(sshd: Sshd) -> None:
    limits = msgspec.structs.replace(PATIENT, at_once=4, behind_jump=2)
    async with server(silent) as port, SshPool(limits=limits) as pool:
        slow = changed(sshd.access(), port=port)
        stuck = [
            asyncio.create_task(pool.run(sshd.access(jump=(slow,)), "true", timeout_s=20))
            for _ in range(20)
        ]
        await asyncio.wait(stuck, timeout=0.05)
        ran = await asyncio.wait_for(pool.run(sshd.access(), "echo ok", timeout_s=20), 25)
        assert ran.stdout == b"ok\n"
        for each in stuck:
            each.cancel()
        await asyncio.wait(stuck)


async def test_the_breaker_holds_looks_back_and_lets_one_through(own_sshd: Sshd) -> None:
    policy = BreakerPolicy(failures=2, base_s=0.3, cap_s=0.3, jitter=0)
    breakers = Breakers({"ssh": policy})
    node = NodeRecord(name="n", ssh=own_sshd.access())
    async with SshPool(limits=PATIENT) as pool:
        prober = Prober(pool, breakers)
        own_sshd.stop()
        kinds = [(await prober.probe(node)).outcome.kind for _ in range(3)]
        assert kinds == ["unreachable", "unreachable", "held_back"]
        own_sshd.start()

        async def back() -> bool:
            return (await prober.probe(node)).outcome.ok

        await eventually(back)
    assert breakers.state("n", "ssh").standing == "closed"


async def test_a_command_of_recovery_runs_once_and_says_how_it_ended(sshd: Sshd) -> None:
    node = NodeRecord(name="n", ssh=sshd.access())
    async with SshPool(limits=PATIENT) as pool:
        prober = Prober(pool, Breakers())
        good = await prober.run_command(node, "echo done", 20)
        bad = await prober.run_command(node, "echo no >&2; exit 7", 20)
        none = await prober.run_command(NodeRecord(name="bare"), "true", 1)
    assert good.outcome.ok
    assert good.ran is not None
    assert good.ran.stdout == b"done\n"
    assert (bad.outcome.kind, bad.outcome.exit_status) == ("command_failed", 7)
    assert bad.ran is not None
    assert bad.ran.stderr == b"no\n"
    assert none.outcome.kind == "config"


async def test_a_login_shell_that_is_no_shell_tells_nothing(tmp_path: Path) -> None:
    with private_sshd(tmp_path / "forced", "ForceCommand echo hello") as forced:
        async with SshPool(limits=PATIENT) as pool:
            node = NodeRecord(name="n", ssh=forced.access())
            result = await Prober(pool, Breakers()).probe(node)
    assert result.report is None
    assert (result.outcome.kind, result.outcome.cause) == ("command_failed", "no_report")
    assert result.outcome.proves_up


async def test_our_own_lateness_is_not_blamed_on_the_host(sshd: Sshd) -> None:
    limits = msgspec.structs.replace(PATIENT, login_s=0.2, late_s=0.05)
    async with server(silent) as port, SshPool(limits=limits) as pool:
        access = changed(sshd.access(), port=port)
        running = asyncio.create_task(pool.run(access, "true", timeout_s=20))
        await asyncio.sleep(0.1)

        time.sleep(0.3)  # noqa: ASYNC251 - the loop is to be late
        with pytest.raises(SshFailed) as failed:
            await running
    assert failed.value.outcome.kind == "monitor_busy"


async def behind_one_jump(sshd: Sshd, count: int, most: int) -> None:
    addresses = [f"127.0.{1 + n // 250}.{1 + n % 250}" for n in range(count)]
    many = EveryAddress(sshd, addresses)
    try:
        async with nothing_left(sshd.port):
            limits = msgspec.structs.replace(
                PATIENT, queue_s=600.0, login_s=60.0, behind_jump=20, connections_behind_jump=most
            )
            async with SshPool(limits=limits) as pool:
                prober = Prober(pool, Breakers())
                nodes = [
                    NodeRecord(
                        name=address,
                        ssh=sshd.access(host=address, jump=(sshd.access(),)),
                    )
                    for address in addresses
                ]
                results = await asyncio.gather(*(prober.probe(node) for node in nodes))
                wrong = [each for each in results if not each.outcome.ok]
                assert not wrong, wrong[:3]
                assert pool.connections <= most + 1
    finally:
        many.close()


async def test_forty_hosts_behind_one_jump_host(sshd: Sshd) -> None:
    await behind_one_jump(sshd, 40, most=25)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_five_hundred_hosts_behind_one_jump_host(sshd: Sshd) -> None:
    await behind_one_jump(sshd, 500, most=500)


def test_nothing_of_the_users_own_configuration_is_read(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "config").write_text("Host *\n  Port 1\n  User nobody\n  ProxyCommand false\n")
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{sshd.port} {sshd.host_key}\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "no-agent"))

    async def look() -> None:
        async with SshPool(limits=PATIENT) as pool:
            assert (await pool.run(sshd.access(), "true", timeout_s=20)).exit_status == 0
            with pytest.raises(SshFailed) as failed:
                await pool.run(changed(sshd.access(), host_key=None), "true", timeout_s=20)
            assert failed.value.outcome.cause == "unknown"

    asyncio.run(look())


def test_the_library_names_its_errors_as_we_expect() -> None:
    for name in (
        "HostKeyNotVerifiable",
        "PermissionDenied",
        "IllegalUserName",
        "PasswordChangeRequired",
        "KeyImportError",
        "KeyEncryptionError",
        "ConfigParseError",
        "ProtocolNotSupported",
        "KeyExchangeFailed",
        "CompressionError",
        "ProtocolError",
        "MACError",
        "ServiceNotAvailable",
        "ChannelOpenError",
        "ConnectionLost",
    ):
        assert issubclass(getattr(asyncssh, name), Exception)
