"""A process frozen before its commit, which comes back with an older token, changes nothing."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from interlock.artifacts.sealing import seal
from interlock.artifacts.store import LocalStore

TIMES = 50

HOLDER = textwrap.dedent(
    """
    import sys
    from interlock.artifacts.errors import TransferFailed
    from interlock.artifacts.store import LocalStore

    source, target = LocalStore(sys.argv[1]), LocalStore(sys.argv[2])
    for line in sys.stdin:
        id, order_token, store_token = line.split()
        receiving = target.receive(source.about(id), source.manifest_bytes(id))
        for piece in receiving.missing:
            receiving.write(memoryview(source.read(id, piece.path, piece.offset, piece.length)))
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            target.commit(id, order_token=int(order_token), store_token=int(store_token))
        except TransferFailed as error:
            print(error.code, flush=True)
        else:
            print("committed", flush=True)
        receiving.close()
    """
)


@pytest.mark.parametrize("stale", ["orders", "store"])
def test_fifty_of_fifty_are_refused(tmp_path: Path, stale: str) -> None:
    source, target = LocalStore(tmp_path / "source"), LocalStore(tmp_path / "target")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(source.root), str(target.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None

        def tell(line: str) -> None:
            assert process.stdin is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()

        outcomes = []
        for number in range(1, TIMES + 1):
            file = tmp_path / f"game-{number}"
            file.write_text(f"game {number}")
            about = seal(source, file, dataset="games", origin="a")
            token = 2 * number
            tell(f"{about.id} {token} {token}")
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGSTOP)
            # Meanwhile somebody else has taken its place.
            with target.fence.guard(stale, token + 1):
                pass
            tell("go on")
            process.send_signal(signal.SIGCONT)
            outcomes.append(process.stdout.readline().strip())
            assert not target.has(about.id)
            # The successor finds all that was verified, and commits it with its own token.
            if number % 10 == 0:
                successor = target.receive(source.about(about.id), source.manifest_bytes(about.id))
                for piece in successor.missing:
                    data = source.read(about.id, piece.path, piece.offset, piece.length)
                    successor.write(memoryview(data))
                target.commit(about.id, order_token=token + 1, store_token=token + 1)
                successor.close()
                assert target.verify(about.id).ok
        process.stdin.close()
        assert outcomes == ["stale_token"] * TIMES
    assert process.returncode == 0
