"""A fleet with data for fault tests: agents with stores of their own that are killed and started
again, one sshd, and a watch that no partial or wrong file is ever visible."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

from interlock import state
from tests.conftest import Up

HASHED = "sha256sum"


class StoreAgent:
    """The agent of a node with a store. It can be killed, and is started again."""

    def __init__(self, up: Up, node: str, root: Path, log: Path, **settings: str) -> None:
        self.node = node
        self.root = root
        self._log = log
        self.env = up.env | {
            "INTERLOCK_NODE": node,
            "INTERLOCK_DATA": str(root),
            "INTERLOCK_AGENT_GPUS": "false",
            "INTERLOCK_AGENT_GRACE_S": "0",
            "INTERLOCK_LOG_FORMAT": "json",
        }
        self.env |= {f"INTERLOCK_{name.upper()}": value for name, value in settings.items()}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "interlock_node_agent"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.env,
                start_new_session=True,
            )

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """To it and all that it started."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command line, as a worker on that node would call it."""
        return subprocess.run(
            [sys.executable, "-m", "interlock", *arguments],
            capture_output=True,
            text=True,
            env=self.env,
            timeout=300,
            check=False,
        )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")


class Watch:
    """Looks all the time at what is visible in some stores, and checks it with ``sha256sum``."""

    def __init__(self, roots: list[Path]) -> None:
        self.roots = roots
        self.seen: set[Path] = set()
        self.wrong: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.look()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self.look()

    def look(self) -> None:
        """Check what has not been seen yet."""
        for root in self.roots:
            for folder in sorted(root.glob("artifacts/??/*")):
                if folder not in self.seen:
                    self.seen.add(folder)
                    self.wrong += wrong_in(folder)


def wrong_in(folder: Path) -> list[str]:
    """What is wrong with an artifact, by its manifest and tools that are not ours."""
    found = hashes([folder / "manifest.json"])
    if found[0] != folder.name:
        return [f"{folder}: the manifest has digest {found[0]}"]
    manifest = json.loads((folder / "manifest.json").read_bytes())
    wanted = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    there = {
        str(path.relative_to(folder / "files")): path
        for path in (folder / "files").rglob("*")
        if not path.is_dir()
    }
    if set(there) != set(wanted):
        return [f"{folder}: {sorted(set(there) ^ set(wanted))[:5]} differ"]
    digests = hashes([there[path] for path in wanted])
    return [
        f"{folder}: {path} has another digest"
        for (path, digest), other in zip(wanted.items(), digests, strict=True)
        if digest != other
    ]


def hashes(paths: list[Path]) -> list[str]:
    """Digests, by sha256sum."""
    found: list[str] = []
    for begin in range(0, len(paths), 500):
        told = subprocess.run(
            [HASHED, "-z", "--", *paths[begin : begin + 500]],
            capture_output=True,
            check=True,
        )
        found += [part[:64].decode() for part in told.stdout.split(b"\0") if part]
    return found


class Producer:
    """Writes a database and a log for as long as it lasts, as workers do."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "games.db"
        self.logfile = folder / "selfplay.jsonl"
        self._ended = threading.Event()
        connection = sqlite3.connect(self.database)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE games (id INTEGER PRIMARY KEY, moves TEXT)")
        connection.commit()
        connection.close()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> "Producer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _write(self) -> None:
        rand = random.Random(1)
        connection = sqlite3.connect(self.database)
        number = 0
        with self.logfile.open("a") as log:
            while not self._ended.wait(0.002):
                number += 1
                moves = "".join(rand.choices("abcdefgh12345678", k=200))
                connection.execute("INSERT INTO games VALUES (?, ?)", (number, moves))
                connection.commit()
                log.write(json.dumps({"game": number, "moves": moves}) + "\n")
                log.flush()
        connection.close()


async def kill_at_random(
    up: Up, agents: list[StoreAgent], seconds: float, seed: int, kinds: tuple[str, ...]
) -> dict[str, int]:
    """Kill agents, the router and the broker, one every second or so; how often each."""
    rand = random.Random(seed)
    count = dict.fromkeys(kinds, 0)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await asyncio.sleep(rand.uniform(0.3, 1.5))
        kind = rand.choice(kinds)
        count[kind] += 1
        if kind == "agent":
            rand.choice(agents).restart()
        elif kind == "frozen agent":
            agent = rand.choice(agents)
            agent.kill(signal.SIGSTOP)
            await asyncio.sleep(rand.uniform(0.2, 1.0))
            agent.kill(signal.SIGCONT)
        else:
            # The broker may just be starting again.
            running = state.read_run(up.folder, answering=False)
            assert running is not None, "`interlock up` ended"
            name = "broker" if kind == "broker" else "sync-router"
            for process in running.processes:
                if process.name == name:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
    return count
