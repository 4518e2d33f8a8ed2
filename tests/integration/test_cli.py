"""The command line, run as a person runs it."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S, Up, clean_env, cli_json, run_cli

DATA = Path(__file__).parent.parent / "data"


def test_every_command_has_help_and_json() -> None:
    def commands(*path: str) -> list[tuple[str, ...]]:
        told = run_cli(None, *path, "--help")
        assert told.returncode == 0, (path, told.stderr)
        listed = told.stdout.partition("Commands:")[2]
        names = [
            line.split()[0]
            for line in listed.splitlines()
            if line.startswith("  ") and line[2] != " "
        ]
        if not names:
            assert "--json" in told.stdout, path
            return [path]
        return [leaf for name in names for leaf in commands(*path, name)]

    leaves = commands()
    for wanted in (
        ("up",), ("demo",), ("setup",), ("doctor",), ("status",), ("publish",), ("tail",),
        ("version",), ("legacy", "list"), ("legacy", "explain"), ("legacy", "map"),
        ("legacy", "unmap"), ("dlq", "list"), ("dlq", "show"), ("dlq", "replay"),
        ("dlq", "discard"),
    ):  # fmt: skip
        assert wanted in leaves


def test_explain_knows_every_name_of_the_predecessor_without_a_broker() -> None:
    names: set[str] = set()
    for file, columns in (("legacy-names.tsv", 1), ("event-types.tsv", 2)):
        for line in (DATA / file).read_text().splitlines()[1:]:
            names.update(line.split("\t")[:columns])
    spelled = sorted(names | {n.upper() for n in names} | {n.lower() for n in names})
    told = run_cli(None, "legacy", "explain", "--json", *spelled)
    assert told.returncode == 0, told.stderr
    answers = [json.loads(line) for line in told.stdout.splitlines()]
    assert [answer["name"] for answer in answers] == spelled
    assert all(answer["canonical_type"] and answer["rule"] for answer in answers)


def test_explain_fails_for_an_unknown_name_and_suggests() -> None:
    told = run_cli(None, "legacy", "explain", "trainning_complte", "--json")
    assert told.returncode == 1
    assert any("train" in name.lower() for name in json.loads(told.stdout)["suggestions"])


def test_version_and_list_work_without_a_broker() -> None:
    assert cli_json(None, "version")["nats_server"]
    rows = cli_json(None, "legacy", "list", "selfplay")
    assert rows
    assert all("selfplay" in (row["name"] + row["canonical_type"]).lower() for row in rows)
    assert run_cli(None, "legacy", "list", "--types").stdout.count("\n") > 300


def test_without_a_broker_an_error_says_what_to_do(tmp_path: Path) -> None:
    env = clean_env() | {"INTERLOCK_STATE": str(tmp_path), "INTERLOCK_NATS_URL": "127.0.0.1:1"}
    told = subprocess.run(
        [sys.executable, "-m", "interlock", "publish", "training.completed", "config=c", "--json"],
        env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert told.returncode == 1
    assert "interlock up" in told.stderr
    assert "Traceback" not in told.stderr
    assert "error" in json.loads(told.stdout)


def test_publish_checks_before_it_sends(up: Up) -> None:
    told = run_cli(up, "publish", "training.complted", "config=c")
    assert told.returncode == 1
    assert "training.completed" in told.stderr
    told = run_cli(up, "publish", "training.completed", "config=c", "final_loss=low")
    assert told.returncode == 1
    assert "final_loss" in told.stderr
    told = run_cli(up, "publish", "training.completed", "config")
    assert told.returncode == 2


def test_publish_then_tail(up: Up) -> None:
    key = uuid.uuid4().hex
    stored = cli_json(up, "publish", "training.completed", f"config={key}", "model=12")
    again = cli_json(
        up, "publish", "training.completed", f"config={key}", "model=12", "--id", stored["id"]
    )
    assert again["duplicate"]
    assert again["seq"] == stored["seq"]
    told = run_cli(up, "tail", f"events.training.completed.{key}", "--no-follow", "--json")
    (line,) = told.stdout.splitlines()
    assert json.loads(line)["payload"] == {"config": key, "model": "12"}
    told = run_cli(up, "publish", "training.completed", "--payload", "-", "--json",
                   stdin=json.dumps({"config": key, "own": [1]}))  # fmt: skip
    assert told.returncode == 0, told.stderr
    told = run_cli(up, "tail", "training", "--since", "10m", "-n", "1", "--json")
    assert told.returncode == 0
    assert run_cli(up, "tail", "trainnig").returncode == 1


def test_setup_twice_changes_nothing(up: Up) -> None:
    changes = cli_json(up, "setup")["changes"]
    assert changes
    assert {change["action"] for change in changes} == {"none"}


def test_status_shows_what_runs(up: Up) -> None:
    told = cli_json(up, "status")
    assert {service["name"] for service in told["services"]} == {
        "dead-letter-queue",
        "event-normalizer",
        "health-monitor",
        "node-agent",
        "sync-mutex",
        "sync-router",
    }
    assert told["silent"] == []
    assert {process["name"] for process in told["processes"]} == {
        "broker",
        "dead-letter-queue",
        "event-normalizer",
        "health-monitor",
        "node-agent",
        "sync-mutex",
        "sync-router",
    }
    assert {stream["name"] for stream in told["streams"]} >= {"LEGACY", "EVENTS", "DEAD"}
    assert "dead-letter-queue" in run_cli(up, "status").stdout


def test_env_is_what_a_worker_needs(up: Up) -> None:
    told = run_cli(up, "env")
    done = subprocess.run(
        ["bash", "-c", f'{told.stdout}"$PY" -m interlock publish training.completed config=env'],
        env=clean_env() | {"PY": sys.executable, "INTERLOCK_STATE": os.devnull},
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_letter_from_capture_to_replay_and_another_to_discard(up: Up) -> None:
    name = f"cli_{uuid.uuid4().hex[:8]}"
    for _ in range(2):
        cli_json(up, "legacy", "send", name, "config_key=hex8_2p", "loss=0.5")
    found = []
    for _ in range(200):
        found = cli_json(up, "dlq", "list", "--name", name)["letters"]
        if len(found) == 2:
            break
    assert len(found) == 2
    first, second = found
    assert first["code"] == "unknown_name"
    shown = cli_json(up, "dlq", "show", first["id"][:10])
    assert json.loads(shown["text"])["event_type"] == name
    raw = run_cli(up, "dlq", "show", first["id"], "--raw")
    assert raw.stdout == shown["text"]
    assert first["id"] in run_cli(up, "dlq", "show", first["id"]).stdout

    told = run_cli(up, "dlq", "discard", second["id"])
    assert told.returncode == 2
    assert "--reason" in told.stderr
    done = cli_json(up, "dlq", "discard", second["id"], "--reason", "made by a test")
    assert done["done"] == [second["id"]]
    assert run_cli(up, "dlq", "replay", second["id"]).returncode == 1

    assert run_cli(up, "legacy", "map", name, "model.promotd").returncode == 1
    assert cli_json(up, "legacy", "map", name, "model.promoted")["changed"]
    assert not cli_json(up, "legacy", "map", name, "model.promoted")["changed"]
    assert cli_json(up, "legacy", "explain", name.upper())["canonical_type"] == "model.promoted"
    assert cli_json(up, "dlq", "replay", "--name", name)["done"] == [first["id"]]
    status = ""
    for _ in range(200):
        status = cli_json(up, "dlq", "show", first["id"])["record"]["status"]
        if status == "resolved":
            break
    assert status == "resolved"
    assert cli_json(up, "dlq", "replay", first["id"])["unchanged"] == [first["id"]]
    assert cli_json(up, "legacy", "unmap", name)["changed"]
    assert run_cli(up, "legacy", "explain", name).returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["dlq", "replay"],
        ["dlq", "replay", "abc", "--all"],
        ["dlq", "list", "--status", "half-dead"],
        ["dlq", "list", "--since", "yesterday-ish"],
        ["tail", "--since", "soon"],
        ["tail", "--since", "0001-01-01T00:00:00+14:00"],
        ["dlq", "list", "--since", "99999999d"],
        ["legacy", "send", ""],
        ["up", "--port", "0"],
        ["nonsense"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    told = run_cli(None, *arguments)
    assert told.returncode == 2, told.stdout
    assert "Traceback" not in told.stderr


def test_only_an_installed_service_can_be_run_alone(tmp_path: Path) -> None:
    told = run_cli(None, "up", "--only", "event-normaliser", "--state", str(tmp_path / "s"))
    assert told.returncode == 1
    assert "event-normalizer" in told.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [("CONNECT_TIMEOUT_S", "soon"), ("LOG_LEVEL", "loud"), ("NATS_URL", "nats://x:port")],
)
def test_a_variable_that_makes_no_sense_is_named(variable: str, value: str) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "interlock", "status"],
        env=clean_env() | {f"INTERLOCK_{variable}": value},
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert told.returncode == 1
    assert variable in told.stderr
    assert "Traceback" not in told.stderr


def test_arguments_and_terminals_that_are_not_utf8_do_no_harm() -> None:
    command: list[str | bytes] = [sys.executable, "-m", "interlock", "legacy", "explain"]
    told = subprocess.run(
        [*command, b"\xff"], env=clean_env(), capture_output=True, timeout=PATIENCE_S, check=False
    )
    assert told.returncode == 2
    assert b"Traceback" not in told.stderr
    told = subprocess.run(
        [*command, "training_complete"],
        env=clean_env() | {"PYTHONIOENCODING": "ascii"},
        capture_output=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert told.returncode == 0
    assert b"training.completed" in told.stdout


def test_a_subject_that_is_none_ends_in_an_error(up: Up) -> None:
    for subject in ("events.>.x", "legacy.a b", "events.."):
        told = run_cli(up, "tail", subject, "--no-follow")
        assert told.returncode == 1, subject
        assert "Traceback" not in told.stderr
