"""Legacy names: every spelling the predecessor used, and the decisions behind the table."""

import csv
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock_schemas import catalogue, legacy
from interlock_schemas.event import EventType
from interlock_schemas.legacy_names import RULES

DATA = Path(__file__).parents[1] / "data"


def column(file: str, *names: str) -> list[str]:
    with (DATA / file).open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    return sorted({row[name] for row in rows for name in names})


ENUM_NAMES = column("event-types.tsv", "name", "value")
SPELLINGS = column("legacy-names.tsv", "legacy")
ALL_NAMES = sorted({*ENUM_NAMES, *SPELLINGS, *(name for name, _ in legacy.known_names())})


def type_of(name: str) -> str:
    match = legacy.resolve(name)
    assert match is not None, f"nobody knows {name}"
    return match.type


def meaning(name: str) -> tuple[str, dict[str, str]]:
    match = legacy.resolve(name)
    assert match is not None, f"nobody knows {name}"
    return match.type, match.sets


def camel(name: str) -> str:
    return "".join(word.capitalize() for word in re.split(r"[._]", name))


def test_the_tables_of_the_predecessor_are_complete() -> None:
    with (DATA / "event-types.tsv").open(encoding="utf-8") as lines:
        assert sum(1 for _ in lines) - 1 == 423
    with (DATA / "legacy-names.tsv").open(encoding="utf-8") as lines:
        assert sum(1 for _ in lines) - 1 == 572


@pytest.mark.parametrize("name", ENUM_NAMES)
def test_every_enum_name_and_value_is_known_in_any_case(name: str) -> None:
    assert type_of(name) == type_of(name.lower()) == type_of(name.upper()) == type_of(name.title())
    assert catalogue.find(type_of(name)) is not None


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_mapped_spelling_is_known_in_any_case(name: str) -> None:
    assert type_of(name) == type_of(name.lower()) == type_of(name.upper()) == type_of(name.title())


@pytest.mark.parametrize("name", ALL_NAMES)
def test_separators_do_not_matter(name: str) -> None:
    variants = (
        name.replace("_", "-"),
        name.replace("_", "."),
        name.replace("_", " "),
        name.replace("_", ""),
        camel(name.lower()),
    )
    assert {type_of(variant) for variant in variants} == {type_of(name)}


@settings(deadline=None)
@given(data=st.data())
def test_no_spelling_of_a_known_name_means_something_else(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(ALL_NAMES))
    spelled = "".join(
        data.draw(st.sampled_from([part.lower(), part.upper()]))
        if part.isalnum()
        else data.draw(st.sampled_from(["_", "-", ".", " ", "", "__", "/", ":"]))
        for part in name
    )
    assert meaning(spelled) == meaning(name)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_known_or_unknown_and_never_an_error(text: str) -> None:
    match = legacy.resolve(text)
    assert match is None or catalogue.find(match.type) is not None


@pytest.mark.parametrize("entry", catalogue.all_types(), ids=lambda entry: entry.name)
def test_a_canonical_name_means_itself(entry: EventType) -> None:
    assert meaning(entry.name) == (entry.name, {})


def test_every_type_but_the_new_ones_has_a_legacy_name() -> None:
    named = {rule.type for rule in RULES}
    assert {entry.name for entry in catalogue.all_types()} - named == {
        "cluster.disruption_detected",
        "cluster.disruption_ended",
        "cluster.work_paused",
        "cluster.work_resumed",
        "consumer.paused",
        "consumer.resumed",
        "letter.replayed",
        "letter.resolved",
        "letter.discarded",
        "lock.expired",
        "lock.lost",
        "lock.refused",
        "legacy.name_mapped",
        "legacy.name_unmapped",
        "node.attention_requested",
        "node.cordoned",
        "sync.artifact_sealed",
        "sync.artifact_dropped",
        "sync.node_evacuated",
        "node.drain_requested",
        "node.evicted",
        "node.leave_announced",
        "node.left",
        "node.uncordoned",
    }


def test_every_rule_points_into_the_catalogue() -> None:
    assert all(catalogue.find(rule.type) is not None for rule in RULES)


def test_there_is_one_rule_for_each_type_and_what_it_sets() -> None:
    keys = [(rule.type, tuple(sorted(rule.sets.items()))) for rule in RULES]
    assert len(keys) == len(set(keys))


def test_no_spelling_is_listed_twice() -> None:
    folded = [legacy.fold(name) for name, _ in legacy.known_names()]
    assert len(folded) == len(set(folded))


def test_a_reason_is_a_sentence() -> None:
    for rule in RULES:
        assert not rule.reason or (rule.reason.endswith(".") and len(rule.reason) >= 25), rule


def test_a_match_always_says_why() -> None:
    assert all(match.rule for name in ALL_NAMES if (match := legacy.resolve(name)) is not None)


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("TRAINING_COMPLETE", "training.completed"),
        ("NEW_GAMES_AVAILABLE", "data.games_added"),
        ("DataEventType.NEW_GAMES_AVAILABLE", "data.games_added"),
        ("StageEvent.SYNC_COMPLETE", "sync.completed"),
        ("RingRiftEventType.STAGE_PROMOTION_COMPLETE", "model.promoted"),
        ("HOST_ONLINE", "node.joined"),
        ("HOST_OFFLINE", "node.lost"),
        ("EXPORT_COMPLETE", "data.export_completed"),
        ("TASK_HEARTBEAT", "task.progressed"),
        ("LOCK_TIMEOUT", "lock.wait_timed_out"),
        ("TRAINING_LOCK_TIMEOUT", "training.lock_expired"),
        ("ERROR", "system.error_reported"),
        ("daemon.degraded_mode", "daemon.degraded_mode_entered"),
        ("system.daemons_ready", "daemon.startup_completed"),
    ],
)
def test_a_name_keeps_its_meaning(name: str, type_: str) -> None:
    assert meaning(name) == (type_, {})


@pytest.mark.parametrize(
    ("name", "type_", "sets"),
    [
        ("selfplay_complete", "selfplay.completed", {}),
        ("selfplay_batch_complete", "selfplay.completed", {}),
        ("canonical_selfplay_complete", "selfplay.completed", {"selfplay_type": "canonical"}),
        ("gpu_selfplay_complete", "selfplay.completed", {"selfplay_type": "gpu"}),
        ("sync_complete", "sync.completed", {}),
        ("cluster_sync_complete", "sync.completed", {"scope": "cluster"}),
        ("model_sync_complete", "model.synced", {}),
        ("shadow_tournament_complete", "evaluation.shadow_tournament_completed", {}),
        ("elo_calibration_complete", "evaluation.elo_calibrated", {}),
        ("tier_gating_complete", "promotion.tier_gating_completed", {}),
        ("TIER_PROMOTION", "promotion.tier_advanced", {}),
        ("cmaes_complete", "optimization.cmaes_completed", {}),
        ("nas_complete", "optimization.nas_completed", {}),
        ("parity_validation_complete", "quality.parity_validation_completed", {}),
        ("pbt_complete", "optimization.pbt_generation_completed", {}),
        ("PBT_COMPLETED", "optimization.pbt_completed", {}),
        ("MODEL_AUTO_PROMOTED", "model.promoted", {"promotion_type": "auto"}),
    ],
)
def test_a_name_with_several_targets_was_given_one_with_a_reason(
    name: str, type_: str, sets: dict[str, str]
) -> None:
    match = legacy.resolve(name)
    assert match is not None
    assert (match.type, match.sets) == (type_, sets)
    assert match.rule.endswith("."), "a decision is explained in a sentence"


@pytest.mark.parametrize("severity", ["minor", "moderate", "severe", "critical"])
def test_the_severity_of_a_regression_survives_as_a_field(severity: str) -> None:
    assert meaning(f"REGRESSION_{severity}") == ("regression.detected", {"severity": severity})
    assert meaning("REGRESSION_DETECTED") == ("regression.detected", {})


@pytest.mark.parametrize("tier", ["caution", "warning", "critical", "emergency"])
def test_the_tier_of_memory_pressure_survives_as_a_field(tier: str) -> None:
    expected = ("resource.memory_pressure_detected", {"tier": tier})
    assert meaning(f"MEMORY_PRESSURE_{tier}") == expected
    assert meaning("MEMORY_PRESSURE") == ("resource.memory_pressure_detected", {})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("UNEVALUATED_MODELS_FOUND", "UNEVALUATED_MODELS_DETECTED"),
        ("RESOURCE_CONSTRAINT", "RESOURCE_CONSTRAINT_DETECTED"),
        ("HOST_OFFLINE", "P2P_NODE_DEAD"),
        ("SYNC_REQUEST", "SYNC_TRIGGERED"),
        ("HARNESS_EVALUATION_COMPLETED", "MODEL_HARNESS_EVALUATED"),
        ("TRAINING_THRESHOLD_REACHED", "training_triggered"),
        ("CURRICULUM_REBALANCED", "curriculum_updated"),
        ("PROMOTION_CERTIFIED", "promotion_certificate"),
        ("CLUSTER_HEALTH_CHANGED", "P2P_CLUSTER_HEALTHY"),
    ],
)
def test_two_names_for_one_fact_are_merged(one: str, other: str) -> None:
    assert type_of(one) == type_of(other)


@pytest.mark.parametrize(
    "group",
    [
        "NEW_GAMES_AVAILABLE SELFPLAY_COMPLETE GAME_SYNCED",
        "OWC_MODEL_DISCOVERED OWC_MODELS_DISCOVERED",
        "P2P_NODE_DEAD P2P_NODES_DEAD NODE_UNHEALTHY NODE_TERMINATED NODE_RETIRED",
        "HOST_ONLINE NODE_RECOVERED NODE_ACTIVATED SSH_NODE_RECOVERED",
        "CLUSTER_HEALTH_CHANGED CLUSTER_STATUS_CHANGED P2P_HEALTH_RECOVERED",
        "BACKPRESSURE_ACTIVATED EVALUATION_BACKPRESSURE WORK_QUEUE_BACKPRESSURE "
        "SQLITE_BACKPRESSURE",
        "BACKPRESSURE_RELEASED EVALUATION_BACKPRESSURE_RELEASED WORK_QUEUE_BACKPRESSURE_RELEASED",
        "SYNC_REQUEST MODEL_SYNC_REQUESTED",
        "QUALITY_DEGRADED LOW_QUALITY_DATA_WARNING DATA_QUALITY_ALERT QUALITY_CHECK_FAILED "
        "TRAINING_BLOCKED_BY_QUALITY",
        "EXPLORATION_BOOST EXPLORATION_ADJUSTED",
        "EVALUATION_COMPLETED HARNESS_EVALUATION_COMPLETED MULTI_HARNESS_EVALUATION_COMPLETED "
        "TOURNAMENT_COMPLETED SHADOW_TOURNAMENT_COMPLETE",
        "TRAINING_THRESHOLD_REACHED TRAINING_REQUESTED",
        "PLATEAU_DETECTED PROGRESS_STALL_DETECTED",
        "CURRICULUM_ROLLBACK CURRICULUM_ROLLBACK_COMPLETED",
        "TASK_FAILED WORK_FAILED JOB_SPAWN_FAILED",
        "TIER_PROMOTION TIER_GATING_COMPLETE MODEL_PROMOTED",
        "ELO_UPDATED ELO_CALIBRATION_COMPLETE ELO_UPDATE CALIBRATION_COMPLETED",
        "EVALUATION_COMPLETED EVALUATION_RESULT EVALUATION_SUBMITTED EVALUATION_CONSENSUS",
        "PROMOTION_CONSENSUS PROMOTION_CONSENSUS_APPROVED MODEL_PROMOTED",
    ],
)
def test_near_duplicates_that_mean_different_facts_stay_apart(group: str) -> None:
    names = group.split()
    assert len({type_of(name) for name in names}) == len(names)
    for name in names:
        match = legacy.resolve(name)
        assert match is not None
        assert match.rule.endswith("."), f"{name} is kept apart without a reason"


def test_a_member_of_a_consensus_vocabulary_is_known_within_its_enum_only() -> None:
    for enum in ("PromotionEventType", "hashgraph.PromotionEventType"):
        assert type_of(f"{enum}.PROPOSAL") == "consensus.promotion_proposed"
        assert type_of(f"{enum}.VOTE") == "consensus.promotion_voted"
        assert type_of(f"{enum}.CONSENSUS") == "consensus.promotion_decided"
        assert type_of(f"{enum}.CERTIFICATE") == "consensus.promotion_certified"
    for bare in ("PROPOSAL", "VOTE", "CONSENSUS", "CERTIFICATE", "EventType.VOTE"):
        assert legacy.resolve(bare) is None


def test_a_domain_before_a_name_is_not_stripped_like_an_enum() -> None:
    assert legacy.resolve("training.error") is None
    assert type_of("DataEventType.ERROR") == "system.error_reported"


def test_an_unknown_name_is_unknown() -> None:
    for name in ("", "   ", "...", "TRAINING", "quantum_flux_inverted", "StageEvent.", "x" * 500):
        assert legacy.resolve(name) is None


@pytest.mark.parametrize(
    ("misspelled", "domain"),
    [
        ("trainning_complete", "training"),
        ("SELFPLAY_COMPLETEE", "selfplay"),
        ("evaluaton_failed", "evaluation"),
        ("quorum_los", "cluster"),
    ],
)
def test_a_misspelled_name_gets_neighbours_of_its_domain(misspelled: str, domain: str) -> None:
    assert legacy.resolve(misspelled) is None
    suggestions = legacy.suggest(misspelled)
    assert suggestions
    assert type_of(suggestions[0]).partition(".")[0] == domain


def test_a_suggestion_is_always_a_name_that_resolves() -> None:
    for name in ("trainning_complete", "sync_don", "node_gone", "promotion"):
        assert all(legacy.resolve(found) is not None for found in legacy.suggest(name))
