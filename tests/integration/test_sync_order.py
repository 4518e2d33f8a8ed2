"""What an acknowledgement of the durable lane means, seen from below."""

import shutil

import pytest

from interlock.bench.fsync import trace_sync

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


async def test_what_is_acknowledged_was_synced_before() -> None:
    report = await trace_sync()
    assert report.ok, report
    assert report.trace.too_early == 0
    # A batch is one sync, and its messages many writes.
    assert report.trace.writes >= report.singles + report.batches * report.batch_messages / 2
    assert report.trace.syncs < report.trace.writes / 2


async def test_the_trace_shows_a_broker_that_does_not_sync() -> None:
    report = await trace_sync(sync_always=False)
    assert not report.ok
    assert report.trace.too_early > 0
