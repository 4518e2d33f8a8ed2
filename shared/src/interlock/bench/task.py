"""What a worker process is told to do, and what it reports: one line of JSON each."""

import msgspec

from interlock.bench import stats

__all__ = ["Outcome", "Task", "Timing", "Where"]


class Where(msgspec.Struct, frozen=True):
    """The broker of a benchmark. Without our settings: others' memory is not to hold our code."""

    urls: tuple[str, ...]
    user: str
    password: str

    def __repr__(self) -> str:
        """Without the password."""
        return f"Where(urls={self.urls!r})"


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one way of one client."""

    way: str
    """Which of the client's ways: ``publish_async``."""
    count: int
    """Messages."""
    stream: str
    subject: str
    size: int = 256
    """Bytes of a body."""
    mark: str = ""
    """Begins the message ids of this run, and names its consumer; no other run's does."""
    window: int = 0
    """Publishes under way at the same time; 0: what the client does by itself."""
    batch: int = 0
    """Messages of one fetch or of one call of a handler."""
    rate: float = 0.0
    """Messages a second of an open loop."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """What a way measured."""

    seconds: float
    count: int
    latency: stats.Latency | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker process reports of a run."""

    timing: Timing | None = None
    error: str | None = None
    """Why there is no timing."""
    idle_mib: float = 0.0
    """Peak memory of the process before its first run, connected, MiB."""
    peak_mib: float = 0.0
    """Peak memory of the process so far, MiB."""
