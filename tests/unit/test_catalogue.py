"""The catalogue of canonical event types: its names, its sentences and what its structs accept."""

import csv
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from interlock_schemas import catalogue, legacy
from interlock_schemas.event import Event, EventType, OpenEvent
from interlock_schemas.legacy_names import ALIASES

TABLE = Path(__file__).parents[1] / "data" / "event-types.tsv"
TYPES = catalogue.all_types()
TYPED = [entry for entry in TYPES if entry.struct is not None]

#: The only required fields: without these nobody could act on the event.
REQUIRED = {
    "training.started": {"config"},
    "training.completed": {"config"},
    "training.failed": {"config"},
    "selfplay.completed": {"config"},
    "evaluation.completed": {"config"},
    "consumer.paused": {"service", "consumer", "reason", "until"},
    "consumer.resumed": {"service", "consumer"},
    "sync.artifact_sealed": {"artifact", "dataset"},
    "sync.artifact_dropped": {"artifact", "node"},
    "sync.node_evacuated": {"node"},
    "letter.replayed": {"letter", "service", "consumer", "hop"},
    "letter.resolved": {"letter", "service", "consumer", "hop"},
    "letter.discarded": {"letter", "service", "consumer", "reason"},
    "legacy.name_mapped": {"name", "type"},
    "legacy.name_unmapped": {"name"},
}
IRREGULAR_PARTICIPLES = {"found", "left", "lost", "rebuilt", "reset", "sent"}

#: Named in the code of services and of the kit.
RELIED_ON = {
    "training.started",
    "training.completed",
    "training.failed",
    "training.progressed",
    "training.requested",
    "selfplay.completed",
    "evaluation.started",
    "evaluation.completed",
    "evaluation.failed",
    "evaluation.requested",
    "evaluation.shadow_tournament_completed",
    "promotion.tier_gating_completed",
    "model.promoted",
    "sync.started",
    "sync.completed",
    "sync.failed",
    "sync.requested",
    "sync.artifact_sealed",
    "sync.artifact_dropped",
    "sync.node_evacuated",
    "sync.checksum_failed",
    "node.joined",
    "node.suspected",
    "node.degraded",
    "node.lost",
    "node.recovered",
    "node.retired",
    "node.evicted",
    "node.leave_announced",
    "node.left",
    "node.cordoned",
    "node.uncordoned",
    "node.drain_requested",
    "node.attention_requested",
    "node.recovery_started",
    "node.recovery_completed",
    "node.recovery_failed",
    "cluster.health_changed",
    "cluster.work_paused",
    "cluster.work_resumed",
    "cluster.disruption_detected",
    "cluster.disruption_ended",
    "breaker.opened",
    "breaker.half_opened",
    "breaker.closed",
    "optimization.pbt_completed",
    "optimization.pbt_generation_completed",
    "work.queued",
    "work.claimed",
    "work.started",
    "work.completed",
    "work.failed",
    "letter.replayed",
    "letter.resolved",
    "letter.discarded",
    "consumer.paused",
    "consumer.resumed",
    "legacy.name_mapped",
    "legacy.name_unmapped",
}

#: What a stage of the predecessor's pipeline reports, whatever the stage.
STAGE_RESULT: dict[str, Any] = {
    "success": True,
    "iteration": 3,
    "timestamp": "2026-01-05T10:00:00",
    "board_type": "hex8",
    "num_players": 2,
    "games_generated": 0,
    "model_path": None,
    "model_id": None,
    "train_loss": None,
    "val_loss": None,
    "win_rate": None,
    "elo_delta": None,
    "promoted": False,
    "promotion_reason": None,
    "error": None,
    "error_details": None,
    "metadata": {},
}

#: First match decides what a plausible value of a legacy field is.
PLAUSIBLE: tuple[tuple[str, Any], ...] = (
    (r"config(_key)?|target_config", "hex8_2p"),
    (r"init_weights", "weights.pt"),
    (r"total_(nodes|voters)", 7),
    (r"win_rate_.*|seconds_.*|.*_seconds_ago|wait_.*", 0.5),
    (r"(is|has)_.*|success|promoted|retryable|improved|.*_active|subscribed|.*_applied", True),
    (r".*_(id|type|path|name|db|node|key|event|reason|config|host)|reason|error|source", "x1"),
    (r"trigger|level|severity|tier|action.*|strategy|component|operation|provider", "high"),
    (r"(old|new)_weights|metrics|metadata|.*_results|.*_weights|stats|result|by_.*", {"a": 1.0}),
    (r".*_(nodes|hosts|paths|configs|peers|voters)|targets|issues|alerts|errors|holders", ["a"]),
    (r".*_per_hour|cost_.*", 0.5),
    (r".*(_seconds|_hours|_ms|_gb|_percent|_utilization|_rate|_loss|_elo)|duration|.*_usd", 0.5),
    (r"elo(_.*)?|.*_(score|quality|value|weight|factor|threshold|velocity|amount|accuracy)", 0.5),
    (r".*(utilization|threshold|quality|rate|loss|velocity|score|progress|lr)", 0.5),
    (r"timestamp|last_.*|.*_(at|time|timeout)", 1736071200.5),
    (r".*(games|samples|count|epoch|epochs|step|depth|total|planned|pid|term|attempts)", 7),
    (r"(games|samples|total|bytes|epochs|consecutive|items|available|files)_.*", 7),
    (r"wins|losses|draws|quorum_size|game_length|.*_gpus|num_players", 7),
)


def rows() -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def plausible(field: str) -> Any:
    return next((value for form, value in PLAUSIBLE if re.fullmatch(form, field)), "x")


def folded(payload: dict[str, Any], entry: EventType) -> dict[str, Any]:
    """The payload with its aliases renamed, as the event normalizer does it."""
    assert entry.struct is not None
    declared = {field.name for field in msgspec.structs.fields(entry.struct)}
    renamed = dict(payload)
    for field, aliases in ALIASES.items():
        if field not in declared | {"config", "node"}:
            continue
        for alias in aliases:
            if alias in renamed and alias not in declared and renamed.get(field) is None:
                renamed[field] = renamed.pop(alias)
    return renamed


def minimal(entry: EventType) -> dict[str, Any]:
    values = {"config": "hex8_2p", "hop": 1}
    return {field: values.get(field, "x") for field in REQUIRED.get(entry.name, ())}


@pytest.mark.parametrize("entry", TYPES, ids=lambda entry: entry.name)
def test_a_name_is_a_domain_and_what_happened_there(entry: EventType) -> None:
    assert re.fullmatch(r"[a-z]+\.[a-z][a-z0-9]*(_[a-z0-9]+)*", entry.name)
    words = entry.event.split("_")
    assert any(word.endswith("ed") or word in IRREGULAR_PARTICIPLES for word in words)
    assert not {entry.domain, f"{entry.domain}s"} & set(words), "the domain is said already"


def test_no_two_names_fold_to_one() -> None:
    assert len({legacy.fold(entry.name) for entry in TYPES}) == len(TYPES)


@pytest.mark.parametrize("entry", TYPES, ids=lambda entry: entry.name)
def test_a_type_says_when_it_is_emitted_and_by_whom(entry: EventType) -> None:
    assert re.search(r"; (emitted|written) by \w+", entry.summary)
    assert entry.summary[0].isupper()
    assert entry.summary.endswith(".")
    assert entry.summary.count(". ") <= 1, "one sentence, or two"
    assert len(entry.summary) <= 220


def test_no_two_types_share_a_sentence() -> None:
    assert len({entry.summary for entry in TYPES}) == len(TYPES)


def test_every_struct_of_a_domain_module_is_in_the_catalogue() -> None:
    def descendants(parent: type[Event]) -> set[type[Event]]:
        return {
            found
            for child in parent.__subclasses__()
            for found in (child, *descendants(child))
            if found.__module__.startswith("interlock_schemas.")
        }

    assert {entry.struct for entry in TYPED} == descendants(Event)


def test_the_types_that_other_code_relies_on_are_there() -> None:
    assert set(catalogue.by_name()) >= RELIED_ON


@pytest.mark.parametrize("entry", TYPED, ids=lambda entry: entry.name)
def test_a_field_is_optional_unless_nobody_could_act_without_it(entry: EventType) -> None:
    assert entry.struct is not None
    required = {field.name for field in msgspec.structs.fields(entry.struct) if field.required}
    assert required == REQUIRED.get(entry.name, set())


@pytest.mark.parametrize("entry", TYPED, ids=lambda entry: entry.name)
def test_an_optional_field_may_be_null(entry: EventType) -> None:
    assert entry.struct is not None
    optional = [f.name for f in msgspec.structs.fields(entry.struct) if not f.required]
    event = entry.convert(dict.fromkeys(optional) | minimal(entry))
    assert event.type_name == entry.name


@pytest.mark.parametrize("entry", TYPED, ids=lambda entry: entry.name)
def test_what_is_required_is_enough(entry: EventType) -> None:
    event = entry.convert(minimal(entry))
    assert event.type_name == entry.name
    assert msgspec.to_builtins(event) == minimal(entry)


def test_an_event_is_built_by_keyword_alone() -> None:
    for entry in TYPED:
        assert entry.struct is not None
        with pytest.raises(TypeError):
            entry.struct("hex8_2p")


def test_a_completed_training_without_a_configuration_is_refused() -> None:
    entry = catalogue.find("training.completed")
    assert entry is not None
    with pytest.raises(msgspec.ValidationError, match="config"):
        entry.convert({"final_loss": 0.4})


def test_an_open_type_takes_any_payload() -> None:
    entry = catalogue.find("breaker.reset")
    assert entry is not None
    assert entry.convert({"anything": [1]}) == OpenEvent("breaker.reset", {"anything": [1]})


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["name"])
def test_a_plausible_legacy_payload_fits_its_type(row: dict[str, str]) -> None:
    match = legacy.resolve(row["name"])
    assert match is not None
    entry = catalogue.by_name()[match.type]
    if entry.struct is None:
        return
    payload = {field: plausible(field) for field in row["payload_fields"].split(",") if field}
    payload |= {key: value for key, value in match.sets.items() if key not in payload}
    payload.setdefault("config", "hex8_2p")
    entry.convert(payload)
    entry.convert(folded(payload, entry))


@pytest.mark.parametrize(
    "row", [r for r in rows() if r["category"] == "stage"], ids=lambda row: row["name"]
)
def test_a_stage_result_with_its_nulls_fits_its_type(row: dict[str, str]) -> None:
    match = legacy.resolve(row["name"])
    assert match is not None
    entry = catalogue.by_name()[match.type]
    payload = STAGE_RESULT | match.sets | {"config": "hex8_2p"}
    entry.convert(payload)
    if entry.struct is not None:
        entry.convert(folded(payload, entry))


@pytest.mark.parametrize(
    "name",
    [
        "sync.completed",
        "data.export_completed",
        "evaluation.completed",
        "evaluation.shadow_tournament_completed",
    ],
)
def test_the_zero_games_of_a_stage_result_are_not_taken_for_a_count(name: str) -> None:
    entry = catalogue.by_name()[name]
    event = entry.convert(folded(STAGE_RESULT | {"config": "hex8_2p"}, entry))
    assert getattr(event, "games") is None  # noqa: B009 - the static type is any event


def test_every_alias_serves_a_field_that_some_type_declares() -> None:
    declared = {
        field.name
        for entry in TYPED
        if entry.struct is not None
        for field in msgspec.structs.fields(entry.struct)
    }
    assert set(ALIASES) <= declared


def test_an_alias_stands_for_one_field_and_is_no_canonical_field_itself() -> None:
    aliases = [alias for names in ALIASES.values() for alias in names]
    assert len(aliases) == len(set(aliases))
    assert not set(aliases) & set(ALIASES)


def test_every_alias_that_the_predecessor_documents_is_known_or_kept_on_purpose() -> None:
    own_meaning = {
        "model_path",
        "checkpoint_path",
        "target_node",
        "best_elo",
        "best_val_loss",
        "elo_drop",
        "loss",
    }
    documented = (
        "config_key model_id model_path checkpoint_path node_id host node_name hostname host_id "
        "target_node peer_id new_elo final_elo current_elo best_elo estimated_elo error "
        "error_message final_val_loss best_val_loss loss games_played new_games game_count "
        "games_generated games_synced games_completed games_count duration_seconds duration "
        "elapsed_seconds total_samples sample_count samples_trained samples_exported "
        "training_samples leader_id new_leader new_leader_id previous_leader elo_delta elo_drop "
        "elo_gain elo_improvement"
    )
    aliases = {alias for names in ALIASES.values() for alias in names}
    assert set(documented.split()) - aliases == own_meaning
