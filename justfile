# Every task a person runs. `just` lists them.

export PATH := justfile_directory() / ".venv/bin:" + justfile_directory() / ".tools/bin:" + env("PATH")
export UV_PYTHON_DOWNLOADS := "never"
export VIRTUAL_ENV := justfile_directory() / ".venv"

packages := "-e schemas -e shared -e services/event_normalizer -e services/dead_letter_queue -e services/sync_mutex -e services/health_monitor -e services/node_agent -e services/sync_router"

# List the recipes
default:
    @just --list --unsorted

# Make the virtual environment and install everything, pinned; quick when nothing changed
[group("set-up")]
setup:
    @uv venv --quiet --allow-existing --python '>=3.11' .venv
    @uv pip install --quiet --require-hashes -r requirements.lock -r requirements-dev.lock
    @uv pip install --quiet --no-deps {{ packages }}

# Pin third-party packages anew, with hashes
[group("set-up")]
lock:
    uv lock --upgrade
    uv export --quiet --all-packages --no-emit-workspace --no-dev --no-annotate --no-header --format requirements-txt -o requirements.lock
    uv export --quiet --all-packages --no-emit-workspace --only-group dev --no-annotate --no-header --format requirements-txt -o requirements-dev.lock

# Show the main job on this machine, with a ledger: just demo --chaos --events 20000
[group("run")]
demo *ARGS: setup
    @interlock demo {{ ARGS }}

# Run the broker and every service on this machine
[group("run")]
up *ARGS: setup
    @interlock up {{ ARGS }}

# Run the tests: just test tests/unit -k mapping
[group("check")]
test *ARGS: setup
    pytest {{ ARGS }}

# Run the tests that take long, which CI leaves out
[group("check")]
test-slow *ARGS: setup
    pytest -m slow {{ ARGS }}

# Format the code
[group("check")]
format: setup
    ruff format .
    ruff check --fix .

# Look at the code without running it: format, lint, types, imports
[group("check")]
lint: setup
    ruff format --check .
    ruff check .
    mypy schemas/src shared/src services/*/src tests
    lint-imports

# Everything that CI runs
[group("check")]
check: lint test

# Search the larger models of the locks for an interleaving that breaks a rule; minutes, gigabytes
[group("check")]
model part="": setup
    python -m tests.model "{{ part }}"

# Kill services and broker for an hour and keep the books
[group("check")]
soak seconds="3600": setup
    #!/usr/bin/env bash
    set -euo pipefail
    end=$((SECONDS + {{ seconds }}))
    while [ "$SECONDS" -lt "$end" ]; do interlock demo --chaos --events 20000 --json; done

# Break brokers, networks and clients by seeds 1 to 20, with one broker and with three
[group("check")]
chaos-soak seconds="30": setup
    #!/usr/bin/env bash
    set -uo pipefail
    failed=0
    for seed in $(seq 1 20); do
        for brokers in 1 3; do
            interlock chaos --brokers "$brokers" --seed "$seed" --seconds {{ seconds }} --json || failed=$((failed + 1))
        done
    done
    echo "$failed of 40 runs failed" >&2
    [ "$failed" -eq 0 ]

# Break everything under locks for five minutes, with one broker and with three, then freeze holders
[group("check")]
chaos-locks seconds="300": setup
    interlock chaos --workload locks --seconds {{ seconds }} --json
    interlock chaos --workload locks --seconds {{ seconds }} --brokers 3 --json
    interlock chaos --workload locks --faults services --seconds 60 --json
    interlock chaos --workload frozen-holder --rounds 100 --json

# One monitor with ten thousand agents, and its decisions on a simulated day of a thousand nodes
[group("check")]
health: setup
    interlock bench health --json
    interlock simulate fleet --nodes 1000 --hours 24 --json

# Move data beside rsync, through a simulated day, and 2 GB while agents, router and broker are killed
[group("check")]
sync: setup
    interlock bench sync --json
    interlock simulate sync --nodes 1000 --artifacts 100000 --hours 24 --json
    pytest -m slow tests/chaos/test_sync.py
