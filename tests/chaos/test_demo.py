"""The demo is a test of the whole: its ledger must balance, also when everything is killed."""

import json

import pytest

from tests.conftest import run_cli

pytestmark = pytest.mark.timeout(400)

REQUIRED = {
    "published", "acknowledged", "normalized", "delivered", "duplicates", "dead_lettered",
    "replayed", "resolved", "still_dead", "lost", "seconds",
}  # fmt: skip


def play(*arguments: str) -> dict[str, float]:
    told = run_cli(None, "demo", "--json", *arguments, timeout_s=380)
    assert told.returncode == 0, told.stdout + told.stderr
    ledger: dict[str, float] = json.loads(told.stdout.splitlines()[-1])
    assert ledger.keys() >= REQUIRED
    assert ledger["lost"] == ledger["duplicates"] == 0
    assert ledger["acknowledged"] == ledger["delivered"] + ledger["still_dead"]
    return ledger


def test_the_demo_balances() -> None:
    ledger = play("--events", "1000", "--seed", "7")
    assert ledger["acknowledged"] == ledger["published"] == 1000
    assert ledger["resolved"] > 0
    assert ledger["still_dead"] > 0
    assert ledger["kills"] == 0


@pytest.mark.slow
def test_the_demo_balances_under_fire() -> None:
    ledger = play("--chaos", "--events", "4000", "--seed", "11")
    assert ledger["acknowledged"] == ledger["published"] == 4000
    assert ledger["kills"] >= 9
