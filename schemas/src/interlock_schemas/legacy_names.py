"""The table of legacy names: every spelling of the predecessor and the type it means today.

`RULES` says what a name means and, where it was a decision, why. `ALIASES` says which fields of a
legacy payload are canonical fields under another name. How a spelling is folded and looked up is
the business of `interlock_schemas.legacy`.
"""

import msgspec

__all__ = ["ALIASES", "RULES", "Rule"]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Legacy names that mean one canonical type."""

    type: str
    """The canonical type."""
    names: tuple[str, ...]
    """Spellings; case and separators do not matter, so one of each is enough."""
    reason: str = ""
    """Why, where it was a decision. Empty: the name and the type say the same thing."""
    sets: dict[str, str] = {}
    """Payload fields that the name itself implies, set where the payload does not have them."""


#: Canonical field → its legacy spellings, best first. `config` and `node` are folded on every type;
#: any other alias only onto a field that the type declares, and never if the type declares the
#: alias as a field of its own.
ALIASES: dict[str, tuple[str, ...]] = {
    "config": ("config_key",),
    # `host` comes late because some emitters put an address there. `target_node`, `source_host`,
    # `requester_node` and the like are other roles than the node that an event is about.
    "node": ("node_id", "node_name", "host_id", "hostname", "host", "peer_id"),
    # `model_path` and `checkpoint_path` are places and not identifiers, and keep their names.
    "model": ("model_id",),
    "from_model": ("from_model_id",),
    "to_model": ("to_model_id",),
    # Why something failed, or why it happened. Where a payload has several, the best is folded and
    # the others stay.
    "reason": (
        "error",
        "error_message",
        "failure_reason",
        "trigger_reason",
        "promotion_reason",
    ),
    "source_node": ("source_host",),
    "target_node": ("target_host",),
    "holder_node": ("holder_hostname",),
    "leader": ("leader_id", "new_leader_id", "new_leader"),
    "old_leader": ("old_leader_id", "previous_leader"),
    "lock": ("lock_name",),
    # Counts of what the event itself did. `total_games` and `games_total` are other numbers. Stage
    # results carry `games_generated` whatever the stage, as zero where nothing was played; types
    # where it would be mistaken for their own count declare it as a field.
    "games": (
        "games_exported",
        "games_merged",
        "games_pushed",
        "games_synced",
        "new_games",
        "games_played",
        "games_completed",
        "games_generated",
        "game_count",
        "games_count",
    ),
    # A total comes last: some payloads have it beside the number that the event is about.
    "samples": (
        "samples_exported",
        "samples_trained",
        "samples_generated",
        "training_samples",
        "sample_count",
        "total_samples",
    ),
    "elo": ("new_elo", "final_elo", "current_elo", "estimated_elo"),
    # Positive is better. `elo_drop` counts the other way round and keeps its name.
    "elo_change": ("elo_delta", "elo_gain", "elo_improvement"),
    "win_rate": ("current_win_rate",),
    "final_loss": ("train_loss",),
    "val_loss": ("final_val_loss",),
    "learning_rate": ("lr",),
    "epochs": ("epochs_completed",),
    "epochs_total": ("total_epochs",),
    "harness": ("harness_type",),
    "score": ("overall_score",),
    "resource_type": ("constraint_type",),
    "bytes_freed": ("bytes_reclaimed",),
    # Seconds, where the predecessor named the unit in full or not at all.
    "duration_s": ("duration_seconds", "duration", "elapsed_seconds"),
    "grace_s": ("grace_seconds",),
    "idle_s": ("idle_duration_seconds",),
    "offline_s": ("offline_duration_seconds",),
    "recovery_timeout_s": ("recovery_timeout",),
    "runtime_s": ("runtime_seconds",),
    "silent_s": ("seconds_since_heartbeat", "last_heartbeat_seconds_ago"),
    "stale_s": ("stale_duration_seconds",),
    "timeout_s": ("timeout_seconds", "wait_timeout", "expected_timeout"),
    "total_uptime_s": ("total_uptime_seconds",),
    "verification_s": ("verification_time_seconds",),
    "wait_s": ("wait_duration", "wait_time"),
}

RULES: tuple[Rule, ...] = (
    Rule(
        type="training.requested",
        names=("TRAINING_REQUESTED",),
        reason=(
            "Kept apart from the threshold: a request wants a run now, a reached threshold only "
            "says that a run would pay."
        ),
    ),
    Rule(
        type="training.threshold_reached",
        names=("TRAINING_THRESHOLD_REACHED", "training_threshold", "training_triggered"),
        reason=(
            "The predecessor's value is training_threshold while its name is "
            "TRAINING_THRESHOLD_REACHED, and its training_triggered is this event with a "
            "subtype; nothing has been requested or started yet."
        ),
    ),
    Rule(
        type="training.started",
        names=(
            "TRAINING_STARTED",
            "training_start",
            "STAGE_TRAINING_STARTED",
            "StageEvent.TRAINING_STARTED",
            "RingRiftEventType.STAGE_TRAINING_STARTED",
        ),
        reason="The stage bus and the second enum report the same start under names of their own.",
    ),
    Rule(type="training.progressed", names=("TRAINING_PROGRESS",)),
    Rule(
        type="training.completed",
        names=(
            "TRAINING_COMPLETED",
            "training_complete",
            "STAGE_TRAINING_COMPLETE",
            "StageEvent.TRAINING_COMPLETE",
            "RingRiftEventType.STAGE_TRAINING_COMPLETE",
        ),
        reason="The stage bus and the second enum report the same end under names of their own.",
    ),
    Rule(
        type="training.failed",
        names=(
            "TRAINING_FAILED",
            "training_fail",
            "STAGE_TRAINING_FAILED",
            "StageEvent.TRAINING_FAILED",
            "RingRiftEventType.STAGE_TRAINING_FAILED",
        ),
        reason=(
            "The stage bus and the second enum report the same failure under names of their own."
        ),
    ),
    Rule(type="training.early_stopped", names=("TRAINING_EARLY_STOPPED",)),
    Rule(type="training.timed_out", names=("TRAINING_TIMEOUT_REACHED",)),
    Rule(type="training.process_killed", names=("TRAINING_PROCESS_KILLED",)),
    Rule(type="training.slot_denied", names=("TRAINING_SLOT_UNAVAILABLE",)),
    Rule(type="training.checkpoint_saved", names=("CHECKPOINT_SAVED",)),
    Rule(type="training.checkpoint_loaded", names=("CHECKPOINT_LOADED",)),
    Rule(type="training.rollback_requested", names=("TRAINING_ROLLBACK_NEEDED",)),
    Rule(type="training.rollback_completed", names=("TRAINING_ROLLBACK_COMPLETED",)),
    Rule(
        type="training.plateau_detected",
        names=("PLATEAU_DETECTED",),
        reason=(
            "Kept apart from progress_stalled: a plateau is one metric standing still over "
            "epochs or games, a stall is hours without rating gain and starts a recovery."
        ),
    ),
    Rule(
        type="training.progress_stalled",
        names=("PROGRESS_STALL_DETECTED",),
        reason=(
            "Kept apart from plateau_detected: it is measured in hours of wall time over all "
            "runs of a configuration and starts a recovery."
        ),
    ),
    Rule(type="training.progress_recovered", names=("PROGRESS_RECOVERED",)),
    Rule(type="training.heartbeat_sent", names=("TRAINING_HEARTBEAT",)),
    Rule(
        type="training.lock_acquired",
        names=("TRAINING_LOCK_ACQUIRED",),
        reason=(
            "Kept apart from lock.acquired, because the training lock is also the right to a "
            "training slot."
        ),
    ),
    Rule(
        type="training.lock_expired",
        names=("TRAINING_LOCK_TIMEOUT",),
        reason=(
            "Its payload tells how long the lock was held: a holder outlived the lock, nobody "
            "waited for it, so it is not lock.wait_timed_out."
        ),
    ),
    Rule(type="training.data_recovered", names=("TRAINING_DATA_RECOVERED",)),
    Rule(type="training.data_recovery_failed", names=("TRAINING_DATA_RECOVERY_FAILED",)),
    Rule(type="training.cascade_transfer_triggered", names=("CASCADE_TRANSFER_TRIGGERED",)),
    Rule(type="training.cascade_transfer_failed", names=("CASCADE_TRANSFER_FAILED",)),
    Rule(type="training.reanalysis_started", names=("REANALYSIS_STARTED",)),
    Rule(type="training.reanalysis_completed", names=("REANALYSIS_COMPLETED",)),
    Rule(type="training.reanalysis_failed", names=("REANALYSIS_FAILED",)),
    Rule(type="training.loss_anomaly_detected", names=("TRAINING_LOSS_ANOMALY",)),
    Rule(type="training.loss_trend_changed", names=("TRAINING_LOSS_TREND",)),
    Rule(
        type="training.replay_buffer_rebuilt",
        names=("PER_BUFFER_REBUILT",),
        reason="PER is prioritized experience replay.",
    ),
    Rule(
        type="training.replay_priorities_updated",
        names=("PER_PRIORITIES_UPDATED",),
        reason="PER is prioritized experience replay.",
    ),
    Rule(type="training.tournament_run_triggered", names=("TOURNAMENT_TRAINING_TRIGGERED",)),
    Rule(
        type="training.iteration_completed",
        names=(
            "iteration_complete",
            "STAGE_ITERATION_COMPLETE",
            "StageEvent.ITERATION_COMPLETE",
            "RingRiftEventType.STAGE_ITERATION_COMPLETE",
            "(normalizer-only).ITERATION_COMPLETE",
        ),
        reason=(
            "The predecessor mapped it to a type in no enum; it is the end of one round of the "
            "training pipeline."
        ),
    ),
    Rule(
        type="training.stall_recovery_escalated",
        names=("STALL_RECOVERY_ESCALATED", "(normalizer-only).STALL_RECOVERY_ESCALATED"),
        reason=(
            "The predecessor mapped it to a type in no enum; its payload names the tier and the "
            "stalled configuration."
        ),
    ),
    Rule(type="evaluation.requested", names=("EVALUATION_REQUESTED",)),
    Rule(type="evaluation.started", names=("EVALUATION_STARTED", "evaluation_start")),
    Rule(type="evaluation.progressed", names=("EVALUATION_PROGRESS",)),
    Rule(
        type="evaluation.completed",
        names=(
            "EVALUATION_COMPLETED",
            "evaluation_complete",
            "STAGE_EVALUATION_COMPLETE",
            "StageEvent.EVALUATION_COMPLETE",
            "RingRiftEventType.STAGE_EVALUATION_COMPLETE",
        ),
        reason=(
            "Only a model's full evaluation; shadow tournaments, single harnesses and "
            "tournaments for data are types of their own, because the predecessor promoted "
            "models on results that were none."
        ),
    ),
    Rule(type="evaluation.failed", names=("EVALUATION_FAILED", "evaluation_fail")),
    Rule(
        type="evaluation.shadow_tournament_completed",
        names=(
            "shadow_tournament_complete",
            "STAGE_SHADOW_TOURNAMENT_COMPLETE",
            "StageEvent.SHADOW_TOURNAMENT_COMPLETE",
            "RingRiftEventType.STAGE_SHADOW_TOURNAMENT_COMPLETE",
        ),
        reason=(
            "The predecessor folded it into EVALUATION_COMPLETED and lost its meaning: a few "
            "games beside the regular evaluation must not promote a model."
        ),
    ),
    Rule(
        type="evaluation.harness_completed",
        names=("HARNESS_EVALUATION_COMPLETED", "MODEL_HARNESS_EVALUATED"),
        reason=(
            "Both say that one model was evaluated under one harness; it is part of an "
            "evaluation and not its completion."
        ),
    ),
    Rule(
        type="evaluation.tournament_completed",
        names=("TOURNAMENT_COMPLETED",),
        reason=(
            "Kept apart from completed: these games are data to train on, and taken for "
            "evaluations they caused hundreds of phantom results a day."
        ),
    ),
    Rule(
        type="evaluation.elo_updated",
        names=("ELO_UPDATED",),
        reason=(
            "Kept apart from the ledger's elo_update, which is one node's entry, and from "
            "elo_calibrated, which concerns the whole pool."
        ),
    ),
    Rule(
        type="evaluation.elo_shifted",
        names=("ELO_SIGNIFICANT_CHANGE",),
        reason=(
            "Kept apart from elo_updated: it passes the threshold that calls for a new curriculum."
        ),
    ),
    Rule(
        type="evaluation.backpressure_activated",
        names=("EVALUATION_BACKPRESSURE",),
        reason=(
            "Kept apart from resource.backpressure_activated and work.backpressure_activated: "
            "only a long evaluation queue pauses training."
        ),
    ),
    Rule(
        type="evaluation.backpressure_released",
        names=("EVALUATION_BACKPRESSURE_RELEASED",),
        reason=(
            "The counterpart of evaluation.backpressure_activated, and like it no other queue's."
        ),
    ),
    Rule(type="evaluation.queued", names=("EVALUATION_QUEUED",)),
    Rule(type="evaluation.stalled", names=("EVALUATION_STUCK",)),
    Rule(type="evaluation.recovered", names=("EVALUATION_RECOVERED",)),
    Rule(type="evaluation.blocked", names=("MODEL_EVALUATION_BLOCKED",)),
    Rule(
        type="evaluation.reevaluation_requested",
        names=("FORCED_REEVALUATION_REQUESTED", "(normalizer-only).FORCED_REEVALUATION_REQUESTED"),
        reason=(
            "The predecessor mapped it to a type in no enum; it asks for a whole configuration, "
            "so it is not one model's evaluation.requested."
        ),
    ),
    Rule(
        type="evaluation.elo_calibrated",
        names=(
            "elo_calibration_complete",
            "STAGE_ELO_CALIBRATION_COMPLETE",
            "StageEvent.ELO_CALIBRATION_COMPLETE",
            "RingRiftEventType.STAGE_ELO_CALIBRATION_COMPLETE",
        ),
        reason=(
            "The predecessor had two targets, ELO_UPDATED and itself; recalibrating the pool is "
            "not one model's new rating."
        ),
    ),
    Rule(type="evaluation.elo_recording_failed", names=("ELO_RECORDING_FAILED",)),
    Rule(type="evaluation.elo_validation_failed", names=("ELO_VALIDATION_FAILED",)),
    Rule(type="evaluation.elo_velocity_changed", names=("ELO_VELOCITY_CHANGED",)),
    Rule(
        type="evaluation.multi_harness_completed",
        names=("MULTI_HARNESS_EVALUATION_COMPLETED",),
        reason=(
            "Kept apart from completed: it sums up the harnesses of an evaluation that is "
            "reported on its own."
        ),
    ),
    Rule(type="evaluation.head_to_head_completed", names=("HEAD_TO_HEAD_COMPLETED",)),
    Rule(
        type="evaluation.cross_config_tournament_completed",
        names=("CROSS_CONFIG_TOURNAMENT_COMPLETED",),
    ),
    Rule(type="evaluation.round_robin_completed", names=("TOPN_ROUNDROBIN_COMPLETED",)),
    Rule(
        type="evaluation.sweep_started",
        names=("COMPREHENSIVE_EVALUATION_STARTED",),
        reason="A pass over all models is no evaluation of one.",
    ),
    Rule(
        type="evaluation.sweep_completed",
        names=("COMPREHENSIVE_EVALUATION_COMPLETED",),
        reason="A pass over all models is no evaluation of one.",
    ),
    Rule(
        type="evaluation.unevaluated_models_found",
        names=("UNEVALUATED_MODELS_FOUND", "UNEVALUATED_MODELS_DETECTED"),
        reason="Found and detected are one fact, reported by two scanners.",
    ),
    Rule(
        type="evaluation.archived_model_queued",
        names=("OWC_MODEL_BACKLOG_QUEUED",),
        reason=(
            "Kept apart from the regular evaluation: an archived model is measured for the "
            "record and is nobody's candidate. OWC is the archive drive."
        ),
    ),
    Rule(
        type="evaluation.archived_model_started",
        names=("OWC_MODEL_EVALUATION_STARTED",),
        reason=(
            "Kept apart from the regular evaluation: an archived model is measured for the "
            "record and is nobody's candidate. OWC is the archive drive."
        ),
    ),
    Rule(
        type="evaluation.archived_model_completed",
        names=("OWC_MODEL_EVALUATION_COMPLETED",),
        reason=(
            "Kept apart from the regular evaluation: an archived model is measured for the "
            "record and is nobody's candidate. OWC is the archive drive."
        ),
    ),
    Rule(
        type="evaluation.archived_model_failed",
        names=("OWC_MODEL_EVALUATION_FAILED",),
        reason=(
            "Kept apart from the regular evaluation: an archived model is measured for the "
            "record and is nobody's candidate. OWC is the archive drive."
        ),
    ),
    Rule(type="evaluation.backlog_discovery_completed", names=("BACKLOG_DISCOVERY_COMPLETED",)),
    Rule(type="promotion.candidate_nominated", names=("PROMOTION_CANDIDATE",)),
    Rule(type="promotion.started", names=("PROMOTION_STARTED", "promotion_start")),
    Rule(
        type="promotion.rejected",
        names=(
            "PROMOTION_REJECTED",
            "training.PromotionEventType.MODEL_PROMOTION_REJECTED",
            "model_promotion_rejected",
        ),
        reason="The trainer's own promotion events say the same under names of their own.",
    ),
    Rule(type="promotion.failed", names=("PROMOTION_FAILED", "promotion_fail")),
    Rule(type="promotion.rolled_back", names=("PROMOTION_ROLLED_BACK",)),
    Rule(
        type="promotion.tier_gating_completed",
        names=(
            "tier_gating_complete",
            "STAGE_TIER_GATING_COMPLETE",
            "StageEvent.TIER_GATING_COMPLETE",
            "RingRiftEventType.STAGE_TIER_GATING_COMPLETE",
        ),
        reason=(
            "The predecessor folded it into MODEL_PROMOTED, but the gate's tests also end with "
            "a model that failed them."
        ),
    ),
    Rule(
        type="promotion.tier_advanced",
        names=("TIER_PROMOTION",),
        reason=(
            "Kept apart from tier_gating_completed, the test before it, and from "
            "model.promoted: a tier is a grade and not a role."
        ),
    ),
    Rule(
        type="promotion.deferred",
        names=("training.PromotionEventType.MODEL_PROMOTION_DEFERRED", "model_promotion_deferred"),
        reason=(
            "Known only to the trainer's own promotion events: neither rejected nor failed, the "
            "decision is still open."
        ),
    ),
    Rule(
        type="promotion.batch_started",
        names=("training.PromotionEventType.BATCH_PROMOTION_STARTED", "batch_promotion_started"),
        reason=(
            "Known only to the trainer's own promotion events; a batch holds several "
            "candidates, so it is not promotion.started."
        ),
    ),
    Rule(
        type="promotion.batch_completed",
        names=(
            "training.PromotionEventType.BATCH_PROMOTION_COMPLETED",
            "batch_promotion_completed",
        ),
        reason=(
            "Known only to the trainer's own promotion events; a finished batch may have "
            "promoted nobody."
        ),
    ),
    Rule(
        type="promotion.crossboard_decided",
        names=("CROSSBOARD_PROMOTION",),
        reason=(
            "Its payload says eligible or not: it is the decision over several configurations "
            "and not yet a promotion."
        ),
    ),
    Rule(
        type="model.promoted",
        names=(
            "MODEL_PROMOTED",
            "promotion_complete",
            "promotion_completed",
            "STAGE_PROMOTION_COMPLETE",
            "StageEvent.PROMOTION_COMPLETE",
            "RingRiftEventType.STAGE_PROMOTION_COMPLETE",
        ),
        reason=(
            "A promotion is complete when the model has its role; the stage bus and the second "
            "enum say so under names of their own."
        ),
    ),
    Rule(
        type="model.promoted",
        names=("training.PromotionEventType.MODEL_AUTO_PROMOTED", "model_auto_promoted"),
        reason=(
            "The trainer's own promotion events name the path in the event; here it is the "
            "field promotion_type."
        ),
        sets={"promotion_type": "auto"},
    ),
    Rule(
        type="model.synced",
        names=(
            "P2P_MODEL_SYNCED",
            "model_synced",
            "model_sync_complete",
            "model_sync_completed",
            "STAGE_MODEL_SYNC_COMPLETE",
            "StageEvent.MODEL_SYNC_COMPLETE",
            "RingRiftEventType.STAGE_MODEL_SYNC_COMPLETE",
        ),
        reason=(
            "The predecessor had two targets, P2P_MODEL_SYNCED and itself; both say that a node "
            "has the model, and by which network is not part of it."
        ),
    ),
    Rule(
        type="model.sync_requested",
        names=("MODEL_SYNC_REQUESTED",),
        reason="Kept apart from sync.requested: it names one model and the node that needs it.",
    ),
    Rule(type="model.distribution_started", names=("MODEL_DISTRIBUTION_STARTED",)),
    Rule(type="model.distribution_completed", names=("MODEL_DISTRIBUTION_COMPLETE",)),
    Rule(type="model.distribution_failed", names=("MODEL_DISTRIBUTION_FAILED",)),
    Rule(type="model.corruption_detected", names=("MODEL_CORRUPTED",)),
    Rule(
        type="model.distribution_timed_out",
        names=("DISTRIBUTION_INCOMPLETE",),
        reason=(
            "Its payload gives a timeout and too few nodes: the wait ended, while the "
            "distribution itself may still succeed."
        ),
    ),
    Rule(type="model.updated", names=("MODEL_UPDATED",)),
    Rule(
        type="model.registry_updated",
        names=("REGISTRY_UPDATED",),
        reason="The only registry the predecessor reported on is that of the models.",
    ),
    Rule(type="model.inventory_updated", names=("CLUSTER_MODEL_INVENTORY_UPDATED",)),
    Rule(type="model.lookup_failed", names=("MODEL_NOT_FOUND",)),
    Rule(type="model.imported", names=("MODEL_IMPORTED",)),
    Rule(
        type="model.found_in_archive",
        names=("OWC_MODEL_DISCOVERED",),
        reason="Kept apart from archive_scanned: it names one model. OWC is the archive drive.",
    ),
    Rule(
        type="model.archive_scanned",
        names=("OWC_MODELS_DISCOVERED",),
        reason=(
            "Kept apart from found_in_archive: it sums up a whole scan, also one that found "
            "nothing. OWC is the archive drive."
        ),
    ),
    Rule(
        type="selfplay.requested",
        names=("request_selfplay_queued",),
        reason=(
            "The predecessor mapped it to a type in no enum; a queued request is the request, "
            "since the stream is the queue."
        ),
    ),
    Rule(
        type="selfplay.completed",
        names=(
            "SELFPLAY_COMPLETE",
            "selfplay_completed",
            "selfplay_batch_complete",
            "STAGE_SELFPLAY_COMPLETE",
            "StageEvent.SELFPLAY_COMPLETE",
            "RingRiftEventType.STAGE_SELFPLAY_COMPLETE",
        ),
        reason=(
            "The predecessor had three targets; a batch is what every self-play task plays, and "
            "NEW_GAMES_AVAILABLE is the store's event and not this one."
        ),
    ),
    Rule(
        type="selfplay.completed",
        names=(
            "canonical_selfplay_complete",
            "STAGE_CANONICAL_SELFPLAY_COMPLETE",
            "StageEvent.CANONICAL_SELFPLAY_COMPLETE",
            "RingRiftEventType.STAGE_CANONICAL_SELFPLAY_COMPLETE",
        ),
        reason=(
            "The predecessor had two targets, one of them in no enum; the kind of self-play is "
            "a field and not a type."
        ),
        sets={"selfplay_type": "canonical"},
    ),
    Rule(
        type="selfplay.completed",
        names=(
            "gpu_selfplay_complete",
            "STAGE_GPU_SELFPLAY_COMPLETE",
            "StageEvent.GPU_SELFPLAY_COMPLETE",
            "RingRiftEventType.STAGE_GPU_SELFPLAY_COMPLETE",
        ),
        reason=(
            "The predecessor had two targets, one of them in no enum; the kind of self-play is "
            "a field and not a type."
        ),
        sets={"selfplay_type": "gpu"},
    ),
    Rule(type="selfplay.target_updated", names=("SELFPLAY_TARGET_UPDATED",)),
    Rule(type="selfplay.rate_changed", names=("SELFPLAY_RATE_CHANGED",)),
    Rule(
        type="selfplay.exploration_boost_requested",
        names=("EXPLORATION_BOOST",),
        reason=(
            "Kept apart from exploration_adjusted: it asks for a factor because training or "
            "rating stagnates, and nothing has changed yet."
        ),
    ),
    Rule(type="selfplay.allocation_updated", names=("SELFPLAY_ALLOCATION_UPDATED",)),
    Rule(
        type="selfplay.budget_adjusted",
        names=("selfplay_budget_adjusted",),
        reason=(
            "The predecessor mapped it to a type in no enum; a budget is search per move, so it "
            "is not selfplay.target_updated."
        ),
    ),
    Rule(type="selfplay.scaled", names=("P2P_SELFPLAY_SCALED",)),
    Rule(
        type="selfplay.exploration_adjusted",
        names=("EXPLORATION_ADJUSTED",),
        reason=(
            "Kept apart from exploration_boost_requested: the parameters have changed, with the "
            "quality of the games."
        ),
    ),
    Rule(
        type="selfplay.temperature_scheduler_registered",
        names=("SCHEDULER_REGISTERED",),
        reason="The only scheduler the predecessor registered by event is that of the temperature.",
    ),
    Rule(
        type="data.games_added",
        names=("NEW_GAMES_AVAILABLE", "new_games"),
        reason=(
            "The predecessor's value is new_games while its name is NEW_GAMES_AVAILABLE; kept "
            "apart from selfplay.completed and sync.games_pushed, because games also reach a "
            "store by transfer and repair."
        ),
    ),
    Rule(type="data.staleness_detected", names=("DATA_STALE",)),
    Rule(type="data.freshness_confirmed", names=("DATA_FRESH",)),
    Rule(type="data.starvation_detected", names=("DATA_STARVATION_CRITICAL",)),
    Rule(type="data.consolidation_started", names=("CONSOLIDATION_STARTED",)),
    Rule(type="data.consolidation_completed", names=("CONSOLIDATION_COMPLETE",)),
    Rule(
        type="data.export_started",
        names=("NPZ_EXPORT_STARTED", "StageEvent.NPZ_EXPORT_STARTED"),
        reason=(
            "The same string is a value on two of the predecessor's buses and means the same on "
            "both."
        ),
    ),
    Rule(
        type="data.export_completed",
        names=(
            "NPZ_EXPORT_COMPLETE",
            "export_complete",
            "STAGE_NPZ_EXPORT_COMPLETE",
            "StageEvent.NPZ_EXPORT_COMPLETE",
            "RingRiftEventType.STAGE_NPZ_EXPORT_COMPLETE",
        ),
        reason=(
            "The same string is a value on two of the predecessor's buses and means the same on "
            "both."
        ),
    ),
    Rule(type="data.export_validation_failed", names=("EXPORT_VALIDATION_FAILED",)),
    Rule(type="data.combination_started", names=("NPZ_COMBINATION_STARTED",)),
    Rule(type="data.combination_completed", names=("NPZ_COMBINATION_COMPLETE",)),
    Rule(type="data.combination_failed", names=("NPZ_COMBINATION_FAILED",)),
    Rule(type="data.game_save_failed", names=("GAME_SAVE_FAILED",)),
    Rule(type="data.repair_completed", names=("REPAIR_COMPLETED",)),
    Rule(type="data.repair_failed", names=("REPAIR_FAILED",)),
    Rule(type="data.database_created", names=("DATABASE_CREATED",)),
    Rule(type="data.orphan_games_detected", names=("ORPHAN_GAMES_DETECTED",)),
    Rule(type="data.orphan_games_registered", names=("ORPHAN_GAMES_REGISTERED",)),
    Rule(type="data.orphan_game_prevented", names=("ORPHAN_GAME_PREVENTED",)),
    Rule(type="data.replication_alert_raised", names=("REPLICATION_ALERT",)),
    Rule(
        type="data.encoding_batch_completed",
        names=("ENCODING_BATCH_COMPLETED", "RingRiftEventType.ENCODING_BATCH_COMPLETED"),
        reason="Known only to the second enum.",
    ),
    Rule(
        type="data.tournament_export_completed",
        names=("TOURNAMENT_DATA_READY",),
        reason="Kept apart from data.export_completed, which a regular training run waits for.",
    ),
    Rule(type="data.tournament_cycle_completed", names=("TOURNAMENT_PIPELINE_COMPLETED",)),
    Rule(
        type="data.backup_completed",
        names=("DATA_BACKUP_COMPLETED",),
        reason=(
            "Kept apart from s3_backup_completed: the backup drives hold all data, object "
            "storage what belongs to a promotion."
        ),
    ),
    Rule(
        type="data.s3_backup_completed",
        names=("S3_BACKUP_COMPLETED",),
        reason=(
            "Kept apart from backup_completed: object storage holds what belongs to a "
            "promotion, the backup drives hold all data."
        ),
    ),
    Rule(
        type="data.database_contended",
        names=("SQLITE_BACKPRESSURE",),
        reason=(
            "Kept apart from the backpressure events: one writer waited for one local database, "
            "and nobody is asked to slow down."
        ),
    ),
    Rule(type="data.connection_limit_approached", names=("SQLITE_CONNECTION_WARNING",)),
    Rule(
        type="sync.requested",
        names=("SYNC_REQUEST", "SYNC_TRIGGERED"),
        reason=(
            "Both ask for a transfer, by decision or because data got old; a model's own "
            "request names a model and a node and stays model.sync_requested."
        ),
    ),
    Rule(
        type="sync.started",
        names=("DATA_SYNC_STARTED", "sync_started"),
        reason="The predecessor's value is sync_started while its name is DATA_SYNC_STARTED.",
    ),
    Rule(
        type="sync.completed",
        names=(
            "DATA_SYNC_COMPLETED",
            "sync_completed",
            "data_sync_complete",
            "sync_complete",
            "STAGE_SYNC_COMPLETE",
            "StageEvent.SYNC_COMPLETE",
            "RingRiftEventType.STAGE_SYNC_COMPLETE",
        ),
        reason=(
            "The predecessor's value is sync_completed while its name is DATA_SYNC_COMPLETED; "
            "its stage bus says sync_complete."
        ),
    ),
    Rule(
        type="sync.completed",
        names=(
            "cluster_sync_complete",
            "cluster_sync_completed",
            "STAGE_CLUSTER_SYNC_COMPLETE",
            "StageEvent.CLUSTER_SYNC_COMPLETE",
            "RingRiftEventType.STAGE_CLUSTER_SYNC_COMPLETE",
        ),
        reason=(
            "The predecessor had two targets, one of them in no enum; how much of the fleet "
            "took part is a field and not a type."
        ),
        sets={"scope": "cluster"},
    ),
    Rule(
        type="sync.failed",
        names=("DATA_SYNC_FAILED", "sync_failed"),
        reason="The predecessor's value is sync_failed while its name is DATA_SYNC_FAILED.",
    ),
    Rule(type="sync.stalled", names=("SYNC_STALLED",)),
    Rule(type="sync.checksum_failed", names=("SYNC_CHECKSUM_FAILED",)),
    Rule(
        type="sync.games_pushed",
        names=("GAME_SYNCED",),
        reason=(
            "Kept apart from data.games_added: its emitter has pushed games, whether a store "
            "has them is said by the receiver."
        ),
    ),
    Rule(
        type="sync.node_unreached",
        names=("SYNC_NODE_UNREACHABLE",),
        reason=(
            "Kept apart from node.lost: one transfer could not reach it, which says nothing "
            "about its membership."
        ),
    ),
    Rule(type="sync.failure_escalated", names=("SYNC_FAILURE_CRITICAL",)),
    Rule(
        type="sync.capacity_refreshed",
        names=("sync_capacity_refreshed",),
        reason="The predecessor mapped it to a type in no enum; its sync router emitted it.",
    ),
    Rule(type="sync.queued_events_delivered", names=("QUEUED_EVENTS_SYNCED",)),
    Rule(type="sync.transport_corruption_detected", names=("TRANSPORT_CORRUPTION_DETECTED",)),
    Rule(
        type="node.joined",
        names=("HOST_ONLINE",),
        reason=(
            "Kept apart from node.recovered: a node that joins may be new, one that recovers "
            "was known to be away."
        ),
    ),
    Rule(type="node.suspected", names=("NODE_SUSPECT",)),
    Rule(
        type="node.lost",
        names=("HOST_OFFLINE", "P2P_NODE_DEAD"),
        reason=(
            "Both say that one node is gone, the first by its own word or the cluster's, the "
            "second by its peers'; what to do about it is the same."
        ),
    ),
    Rule(
        type="node.recovered",
        names=("NODE_RECOVERED",),
        reason="Kept apart from node.joined: whoever excluded the node takes it back on this one.",
    ),
    Rule(
        type="node.degraded",
        names=("NODE_UNHEALTHY",),
        reason=(
            "Kept apart from node.lost: the node answers and its work goes on, but it should "
            "get no more."
        ),
    ),
    Rule(type="node.overloaded", names=("NODE_OVERLOADED",)),
    Rule(
        type="node.retired",
        names=("NODE_RETIRED",),
        reason=(
            "Kept apart from node.lost and node.terminated: a person or a rule took the node "
            "out, the machine is still there."
        ),
    ),
    Rule(
        type="node.activated",
        names=("NODE_ACTIVATED",),
        reason=(
            "Kept apart from node.joined and node.recovered: the node was healthy all along and "
            "is given work now."
        ),
    ),
    Rule(
        type="node.terminated",
        names=("NODE_TERMINATED",),
        reason=(
            "Kept apart from node.lost and node.retired: a rented machine was given back and "
            "its disk is gone."
        ),
    ),
    Rule(type="node.health_check_passed", names=("HEALTH_CHECK_PASSED",)),
    Rule(type="node.health_check_failed", names=("HEALTH_CHECK_FAILED",)),
    Rule(type="node.capacity_updated", names=("NODE_CAPACITY_UPDATED",)),
    Rule(
        type="node.idle_detected",
        names=("IDLE_RESOURCE_DETECTED",),
        reason=(
            "Kept apart from idle_state_reported: a monitor judged the node idle, the other is "
            "the node's own regular word."
        ),
    ),
    Rule(
        type="node.recovery_started",
        names=("RECOVERY_INITIATED",),
        reason=(
            "Recovery of a node or one of its components by the health manager; kept apart from "
            "node.recovered, the state it aims at."
        ),
    ),
    Rule(type="node.recovery_completed", names=("RECOVERY_COMPLETED",)),
    Rule(type="node.recovery_failed", names=("RECOVERY_FAILED",)),
    Rule(type="node.provisioned", names=("NODE_PROVISIONED",)),
    Rule(type="node.provisioning_failed", names=("NODE_PROVISION_FAILED",)),
    Rule(type="node.idle_state_requested", names=("IDLE_STATE_REQUEST",)),
    Rule(
        type="node.idle_state_reported",
        names=("IDLE_STATE_BROADCAST",),
        reason="Kept apart from idle_detected: the node says it regularly, idle or not.",
    ),
    Rule(type="node.ssh_check_started", names=("SSH_LIVENESS_CHECK_STARTED",)),
    Rule(type="node.ssh_check_passed", names=("SSH_LIVENESS_CHECK_SUCCEEDED",)),
    Rule(type="node.ssh_check_failed", names=("SSH_LIVENESS_CHECK_FAILED",)),
    Rule(
        type="node.ssh_lost",
        names=("SSH_NODE_UNRESPONSIVE",),
        reason="Kept apart from node.lost: SSH is gone, while the node may well be working.",
    ),
    Rule(
        type="node.ssh_recovered",
        names=("SSH_NODE_RECOVERED",),
        reason=(
            "Kept apart from node.recovered: SSH answers again, which is one way of reaching "
            "the node among several."
        ),
    ),
    Rule(type="node.p2p_recovery_completed", names=("REMOTE_P2P_RECOVERY_SUCCESS",)),
    Rule(type="node.p2p_recovery_failed", names=("REMOTE_P2P_RECOVERY_FAILED",)),
    Rule(type="node.private_address_advertised", names=("PRIVATE_IP_ADVERTISED",)),
    Rule(type="node.tailscale_cli_failed", names=("TAILSCALE_CLI_ERROR",)),
    Rule(type="node.tailscale_cli_recovered", names=("TAILSCALE_CLI_RECOVERED",)),
    Rule(type="node.gpu_mismatch_detected", names=("GPU_CAPABILITY_MISMATCH",)),
    Rule(type="node.cuda_mismatch_detected", names=("PYTORCH_CUDA_MISMATCH",)),
    Rule(type="node.incompatibility_detected", names=("NODE_INCOMPATIBLE_WITH_WORKLOAD",)),
    Rule(
        type="cluster.health_changed",
        names=("CLUSTER_HEALTH_CHANGED",),
        reason=(
            "One verdict on the whole fleet, of which healthy and unhealthy are values of the "
            "field level."
        ),
    ),
    Rule(
        type="cluster.health_changed",
        names=("P2P_CLUSTER_HEALTHY",),
        reason="The verdict is a field and not a type.",
        sets={"level": "healthy"},
    ),
    Rule(
        type="cluster.health_changed",
        names=("P2P_CLUSTER_UNHEALTHY",),
        reason="The verdict is a field and not a type.",
        sets={"level": "unhealthy"},
    ),
    Rule(type="cluster.capacity_changed", names=("CLUSTER_CAPACITY_CHANGED",)),
    Rule(type="cluster.leader_elected", names=("LEADER_ELECTED",)),
    Rule(type="cluster.leader_lost", names=("LEADER_LOST",)),
    Rule(type="cluster.quorum_lost", names=("QUORUM_LOST",)),
    Rule(type="cluster.quorum_restored", names=("QUORUM_RESTORED",)),
    Rule(
        type="cluster.status_changed",
        names=("CLUSTER_STATUS_CHANGED",),
        reason=(
            "Kept apart from health_changed: it carries the peer network's old and new status, "
            "partly of a single node, and no verdict."
        ),
    ),
    Rule(type="cluster.visibility_degraded", names=("CLUSTER_VISIBILITY_DEGRADED",)),
    Rule(type="cluster.stall_detected", names=("CLUSTER_STALL_DETECTED",)),
    Rule(type="cluster.health_alert_raised", names=("HEALTH_ALERT",)),
    Rule(
        type="cluster.nodes_lost",
        names=("P2P_NODES_DEAD",),
        reason=(
            "Kept apart from node.lost: one event names several nodes, and what vanishes "
            "together is a network cut more often than many deaths."
        ),
    ),
    Rule(type="cluster.underutilized", names=("CLUSTER_UNDERUTILIZED",)),
    Rule(type="cluster.utilization_recovered", names=("CLUSTER_UTILIZATION_RECOVERED",)),
    Rule(type="cluster.leader_stepped_down", names=("LEADER_STEPDOWN",)),
    Rule(type="cluster.leader_heartbeat_missed", names=("LEADER_HEARTBEAT_MISSING",)),
    Rule(type="cluster.leader_lease_expired", names=("LEADER_LEASE_EXPIRED",)),
    Rule(type="cluster.backup_candidates_probed", names=("BACKUP_CANDIDATES_PROBED",)),
    Rule(type="cluster.split_brain_detected", names=("SPLIT_BRAIN_DETECTED",)),
    Rule(type="cluster.split_brain_resolved", names=("SPLIT_BRAIN_RESOLVED",)),
    Rule(type="cluster.epoch_advanced", names=("EPOCH_ADVANCED",)),
    Rule(type="cluster.state_persisted", names=("STATE_PERSISTED",)),
    Rule(
        type="cluster.voter_lost",
        names=("VOTER_OFFLINE",),
        reason=(
            "Kept apart from node.lost: a vote is missing, while the node may still be doing "
            "its work."
        ),
    ),
    Rule(
        type="cluster.voter_returned",
        names=("VOTER_ONLINE",),
        reason="Kept apart from node.joined: a known voter can be reached again.",
    ),
    Rule(type="cluster.voter_demoted", names=("VOTER_DEMOTED",)),
    Rule(type="cluster.voter_promoted", names=("VOTER_PROMOTED",)),
    Rule(type="cluster.voter_flapping_detected", names=("VOTER_FLAPPING",)),
    Rule(type="cluster.voter_healing_requested", names=("VOTER_HEALING_REQUESTED",)),
    Rule(type="cluster.voter_reconnect_requested", names=("QUORUM_PRIORITY_RECONNECT",)),
    Rule(type="cluster.quorum_endangered", names=("QUORUM_AT_RISK",)),
    Rule(type="cluster.quorum_recovery_started", names=("QUORUM_RECOVERY_STARTED",)),
    Rule(type="cluster.quorum_validation_failed", names=("QUORUM_VALIDATION_FAILED",)),
    Rule(type="cluster.peer_discovery_escalated", names=("PEER_DISCOVERY_EMERGENCY",)),
    Rule(type="cluster.partition_healing_started", names=("PARTITION_HEALING_STARTED",)),
    Rule(type="cluster.partition_healed", names=("PARTITION_HEALED",)),
    Rule(type="cluster.partition_healing_failed", names=("PARTITION_HEALING_FAILED",)),
    Rule(type="cluster.healing_convergence_failed", names=("HEALING_CONVERGENCE_FAILED",)),
    Rule(type="cluster.network_isolation_detected", names=("NETWORK_ISOLATION_DETECTED",)),
    Rule(type="cluster.p2p_restart_triggered", names=("P2P_RESTART_TRIGGERED",)),
    Rule(type="cluster.p2p_restarted", names=("P2P_RESTARTED",)),
    Rule(
        type="cluster.p2p_health_recovered",
        names=("P2P_HEALTH_RECOVERED",),
        reason=(
            "Kept apart from health_changed: the peer network is well again, which is one "
            "condition of a healthy fleet."
        ),
    ),
    Rule(
        type="cluster.p2p_recovery_requested",
        names=("P2P_RECOVERY_NEEDED",),
        reason="It is sent when every automatic remedy has been tried: a person is asked.",
    ),
    Rule(
        type="cluster.p2p_recovery_completed",
        names=("CLUSTER_P2P_RECOVERY_COMPLETED",),
        reason=(
            "Kept apart from p2p_health_recovered: a round of repairs ended, whatever it achieved."
        ),
    ),
    Rule(type="cluster.p2p_connection_reset_requested", names=("P2P_CONNECTION_RESET_REQUESTED",)),
    Rule(type="cluster.p2p_zombie_detected", names=("P2P_ZOMBIE_DETECTED",)),
    Rule(type="cluster.gossip_cleanup_completed", names=("GOSSIP_STATE_CLEANUP_COMPLETED",)),
    Rule(
        type="cluster.fast_failure_detected",
        names=("FAST_FAILURE_ALERT",),
        reason="The first alarm of three, after ten minutes.",
    ),
    Rule(
        type="cluster.fast_failure_escalated",
        names=("FAST_FAILURE_RECOVERY",),
        reason=(
            "Despite its name no recovery: the failure has lasted half an hour and stronger "
            "remedies begin; fast_failure_recovered is the end."
        ),
    ),
    Rule(type="cluster.fast_failure_recovered", names=("FAST_FAILURE_RECOVERED",)),
    Rule(type="cluster.resilience_escalated", names=("RESILIENCE_ESCALATION",)),
    Rule(type="breaker.opened", names=("CIRCUIT_BREAKER_OPENED",)),
    Rule(type="breaker.half_opened", names=("CIRCUIT_BREAKER_HALF_OPEN",)),
    Rule(type="breaker.closed", names=("CIRCUIT_BREAKER_CLOSED",)),
    Rule(type="breaker.threshold_reached", names=("CIRCUIT_BREAKER_THRESHOLD",)),
    Rule(
        type="breaker.tier_changed",
        names=("ESCALATION_TIER_CHANGED",),
        reason=(
            "The only escalation tiers with an event of their own are those of a breaker's "
            "waiting time."
        ),
    ),
    Rule(
        type="breaker.reset",
        names=("CIRCUIT_RESET",),
        reason=(
            "Kept apart from breaker.closed: it was closed ahead of time from outside, without "
            "trial calls."
        ),
    ),
    Rule(
        type="work.submitted",
        names=("WORK_SUBMITTED",),
        reason=(
            "Kept apart from work.queued: it is the submitter's word, and the queue may still "
            "refuse the item."
        ),
    ),
    Rule(
        type="work.queued",
        names=("WORK_QUEUED",),
        reason="Kept apart from work.submitted: it is the queue's word.",
    ),
    Rule(type="work.claimed", names=("WORK_CLAIMED",)),
    Rule(type="work.started", names=("WORK_STARTED",)),
    Rule(type="work.completed", names=("WORK_COMPLETED",)),
    Rule(
        type="work.failed",
        names=("WORK_FAILED",),
        reason=(
            "Kept apart from task.failed and task.spawn_failed: the item has failed for good, "
            "while the other two are single attempts."
        ),
    ),
    Rule(type="work.retry_scheduled", names=("WORK_RETRY",)),
    Rule(type="work.timed_out", names=("WORK_TIMEOUT",)),
    Rule(type="work.cancelled", names=("WORK_CANCELLED",)),
    Rule(
        type="work.backpressure_activated",
        names=("WORK_QUEUE_BACKPRESSURE",),
        reason=(
            "Kept apart from resource.backpressure_activated: the queue is full, the nodes need "
            "not be."
        ),
    ),
    Rule(
        type="work.backpressure_released",
        names=("WORK_QUEUE_BACKPRESSURE_RELEASED",),
        reason="The counterpart of work.backpressure_activated, and like it no other queue's.",
    ),
    Rule(type="work.injected", names=("IDLE_NODE_WORK_INJECTED",)),
    Rule(type="work.batch_scheduled", names=("BATCH_SCHEDULED",)),
    Rule(type="work.batch_dispatched", names=("BATCH_DISPATCHED",)),
    Rule(type="work.queue_stalled", names=("WORK_QUEUE_STALLED",)),
    Rule(type="work.queue_recovered", names=("WORK_QUEUE_RECOVERED",)),
    Rule(type="work.queue_exhausted", names=("WORK_QUEUE_EXHAUSTED",)),
    Rule(type="work.autonomous_queue_activated", names=("AUTONOMOUS_QUEUE_ACTIVATED",)),
    Rule(type="work.autonomous_queue_deactivated", names=("AUTONOMOUS_QUEUE_DEACTIVATED",)),
    Rule(type="task.spawned", names=("TASK_SPAWNED",)),
    Rule(
        type="task.progressed",
        names=("TASK_HEARTBEAT",),
        reason="A task's heartbeat carries how far it has come, which is what readers use it for.",
    ),
    Rule(type="task.completed", names=("TASK_COMPLETED",)),
    Rule(
        type="task.failed",
        names=("TASK_FAILED",),
        reason="Kept apart from work.failed: one attempt failed, the item may be tried again.",
    ),
    Rule(type="task.orphaned", names=("TASK_ORPHANED",)),
    Rule(type="task.cancelled", names=("TASK_CANCELLED",)),
    Rule(
        type="task.abandoned",
        names=("TASK_ABANDONED",),
        reason="Kept apart from task.orphaned: the task was given up on purpose.",
    ),
    Rule(type="task.preempted", names=("JOB_PREEMPTED",)),
    Rule(
        type="task.spawn_verified",
        names=("JOB_SPAWN_VERIFIED",),
        reason=(
            "Kept apart from task.spawned: the dispatcher saw the job running, instead of the "
            "node having started it."
        ),
    ),
    Rule(
        type="task.spawn_failed",
        names=("JOB_SPAWN_FAILED",),
        reason="Kept apart from task.failed: nothing ran that could have failed.",
    ),
    Rule(
        type="task.cpu_job_completed",
        names=("CPU_PIPELINE_JOB_COMPLETED",),
        reason="Kept apart from task.completed: it also reports jobs that failed.",
    ),
    Rule(
        type="resource.backpressure_activated",
        names=("BACKPRESSURE_ACTIVATED",),
        reason=(
            "The node's or the fleet's; the evaluation queue and the work queue have their own, "
            "because other producers listen to each."
        ),
    ),
    Rule(
        type="resource.backpressure_released",
        names=("BACKPRESSURE_RELEASED",),
        reason="The counterpart of resource.backpressure_activated.",
    ),
    Rule(
        type="resource.constraint_detected",
        names=("RESOURCE_CONSTRAINT", "RESOURCE_CONSTRAINT_DETECTED"),
        reason="Both say that a resource hit its limit, with the same fields under other names.",
    ),
    Rule(
        type="resource.memory_pressure_detected",
        names=("MEMORY_PRESSURE",),
        reason="The tier is a field and not a type; the plain name says nothing about it.",
    ),
    Rule(
        type="resource.memory_pressure_detected",
        names=("MEMORY_PRESSURE_CAUTION",),
        reason="The tier is a field and not a type.",
        sets={"tier": "caution"},
    ),
    Rule(
        type="resource.memory_pressure_detected",
        names=("MEMORY_PRESSURE_WARNING",),
        reason="The tier is a field and not a type.",
        sets={"tier": "warning"},
    ),
    Rule(
        type="resource.memory_pressure_detected",
        names=("MEMORY_PRESSURE_CRITICAL",),
        reason="The tier is a field and not a type.",
        sets={"tier": "critical"},
    ),
    Rule(
        type="resource.memory_pressure_detected",
        names=("MEMORY_PRESSURE_EMERGENCY",),
        reason="The tier is a field and not a type.",
        sets={"tier": "emergency"},
    ),
    Rule(type="resource.memory_pressure_relieved", names=("MEMORY_PRESSURE_RECOVERED",)),
    Rule(type="resource.disk_shortage_detected", names=("DISK_SPACE_LOW",)),
    Rule(
        type="resource.disk_cleaned",
        names=("DISK_CLEANUP_TRIGGERED",),
        reason="Despite its name the cleanup has ended: its payload tells what was freed.",
    ),
    Rule(type="resource.socket_leak_detected", names=("SOCKET_LEAK_DETECTED",)),
    Rule(type="resource.socket_leak_recovered", names=("SOCKET_LEAK_RECOVERED",)),
    Rule(type="resource.capacity_shortage_detected", names=("CAPACITY_LOW",)),
    Rule(type="resource.capacity_restored", names=("CAPACITY_RESTORED",)),
    Rule(type="resource.budget_threshold_reached", names=("BUDGET_ALERT",)),
    Rule(type="resource.budget_exceeded", names=("BUDGET_EXCEEDED",)),
    Rule(type="resource.utilization_recovery_started", names=("UTILIZATION_RECOVERY_STARTED",)),
    Rule(type="resource.utilization_recovery_completed", names=("UTILIZATION_RECOVERY_COMPLETED",)),
    Rule(type="resource.utilization_recovery_failed", names=("UTILIZATION_RECOVERY_FAILED",)),
    Rule(type="quality.score_updated", names=("QUALITY_SCORE_UPDATED",)),
    Rule(
        type="quality.degraded",
        names=("QUALITY_DEGRADED",),
        reason=(
            "Kept apart from poor_data_detected: a configuration's score fell below its "
            "threshold, a change over time."
        ),
    ),
    Rule(type="quality.good_data_confirmed", names=("HIGH_QUALITY_DATA_AVAILABLE",)),
    Rule(
        type="quality.poor_data_detected",
        names=("LOW_QUALITY_DATA_WARNING",),
        reason=(
            "Kept apart from degraded: certain games or samples are poor, whatever the score "
            "was before."
        ),
    ),
    Rule(type="quality.check_requested", names=("QUALITY_CHECK_REQUESTED",)),
    Rule(
        type="quality.check_failed",
        names=("QUALITY_CHECK_FAILED",),
        reason="Kept apart from issues_found: the verdict is that the data must not be used.",
    ),
    Rule(
        type="quality.issues_found",
        names=("DATA_QUALITY_ALERT",),
        reason=(
            "Kept apart from check_failed: the check lists issues and may still call the data "
            "valid."
        ),
    ),
    Rule(
        type="quality.training_blocked",
        names=("TRAINING_BLOCKED_BY_QUALITY",),
        reason=(
            "Kept apart from the other quality events: it is the consequence, a run that does "
            "not start."
        ),
    ),
    Rule(type="quality.distribution_changed", names=("QUALITY_DISTRIBUTION_CHANGED",)),
    Rule(type="quality.feedback_adjusted", names=("QUALITY_FEEDBACK_ADJUSTED",)),
    Rule(type="quality.penalty_applied", names=("QUALITY_PENALTY_APPLIED",)),
    Rule(type="quality.selfplay_dispatched", names=("QUALITY_SELFPLAY_DISPATCHED",)),
    Rule(type="quality.parity_validation_started", names=("PARITY_VALIDATION_STARTED",)),
    Rule(
        type="quality.parity_validation_completed",
        names=(
            "PARITY_VALIDATION_COMPLETED",
            "parity_validation_complete",
            "STAGE_PARITY_VALIDATION_COMPLETE",
            "StageEvent.PARITY_VALIDATION_COMPLETE",
            "RingRiftEventType.STAGE_PARITY_VALIDATION_COMPLETE",
        ),
        reason="The predecessor had two targets that differ only in tense.",
    ),
    Rule(type="quality.parity_failure_rate_changed", names=("PARITY_FAILURE_RATE_CHANGED",)),
    Rule(
        type="curriculum.rebalanced",
        names=("CURRICULUM_REBALANCED", "curriculum_updated"),
        reason=(
            "The predecessor mapped curriculum_updated to a type in no enum, while its own "
            "emitter of that name sends CURRICULUM_REBALANCED for a single weight."
        ),
    ),
    Rule(type="curriculum.weight_updated", names=("WEIGHT_UPDATED",)),
    Rule(type="curriculum.advanced", names=("CURRICULUM_ADVANCED",)),
    Rule(
        type="curriculum.rollback_requested",
        names=("CURRICULUM_ROLLBACK",),
        reason=(
            "Kept apart from rollback_completed: it is the signal to restore the earlier "
            "weights, which may find none."
        ),
    ),
    Rule(
        type="curriculum.rollback_completed",
        names=("CURRICULUM_ROLLBACK_COMPLETED",),
        reason="Kept apart from rollback_requested: the weight has been set back.",
    ),
    Rule(type="curriculum.reset_requested", names=("CURRICULUM_RESET_REQUESTED",)),
    Rule(
        type="curriculum.advancement_requested",
        names=("CURRICULUM_ADVANCEMENT_NEEDED",),
        reason=(
            "Kept apart from curriculum.advanced: the rating stagnates and a harder tier is wanted."
        ),
    ),
    Rule(type="curriculum.propagation_requested", names=("CURRICULUM_PROPAGATE",)),
    Rule(
        type="curriculum.allocation_changed",
        names=("curriculum_allocation_changed",),
        reason=(
            "The predecessor mapped it to a type in no enum; its self-play orchestrator emitted it."
        ),
    ),
    Rule(
        type="curriculum.aggressive_mode_requested",
        names=(
            "AGGRESSIVE_CURRICULUM_REQUESTED",
            "(normalizer-only).AGGRESSIVE_CURRICULUM_REQUESTED",
        ),
        reason=(
            "The predecessor mapped it to a type in no enum; kept apart from reset_requested, "
            "which is milder."
        ),
    ),
    Rule(type="curriculum.architecture_weights_updated", names=("ARCHITECTURE_WEIGHTS_UPDATED",)),
    Rule(type="curriculum.opponent_mastered", names=("OPPONENT_MASTERED",)),
    Rule(
        type="curriculum.difficulty_calibrated",
        names=("CALIBRATION_COMPLETED", "RingRiftEventType.CALIBRATION_COMPLETED"),
        reason=(
            "Known only to the second enum, where it is the calibration of difficulty and not "
            "of ratings."
        ),
    ),
    Rule(type="optimization.hyperparameter_updated", names=("HYPERPARAMETER_UPDATED",)),
    Rule(type="optimization.adaptive_parameters_changed", names=("ADAPTIVE_PARAMS_CHANGED",)),
    Rule(type="optimization.cmaes_triggered", names=("CMAES_TRIGGERED",)),
    Rule(
        type="optimization.cmaes_completed",
        names=(
            "CMAES_COMPLETED",
            "cmaes_complete",
            "STAGE_CMAES_COMPLETE",
            "StageEvent.CMAES_COMPLETE",
            "RingRiftEventType.STAGE_CMAES_COMPLETE",
        ),
        reason="The predecessor had two targets that differ only in tense.",
    ),
    Rule(type="optimization.pbt_started", names=("PBT_STARTED",)),
    Rule(
        type="optimization.pbt_generation_completed",
        names=(
            "PBT_GENERATION_COMPLETE",
            "pbt_complete",
            "STAGE_PBT_COMPLETE",
            "StageEvent.PBT_COMPLETE",
            "RingRiftEventType.STAGE_PBT_COMPLETE",
        ),
        reason=(
            "Four of the predecessor's maps agree that its stage pbt_complete is the end of one "
            "generation."
        ),
    ),
    Rule(
        type="optimization.pbt_completed",
        names=("PBT_COMPLETED",),
        reason=(
            "The predecessor's normalizer rewrote it to PBT_GENERATION_COMPLETE, but the end of "
            "the search is a type of its own."
        ),
    ),
    Rule(type="optimization.nas_triggered", names=("NAS_TRIGGERED",)),
    Rule(type="optimization.nas_started", names=("NAS_STARTED",)),
    Rule(type="optimization.nas_generation_completed", names=("NAS_GENERATION_COMPLETE",)),
    Rule(type="optimization.nas_best_architecture_found", names=("NAS_BEST_ARCHITECTURE",)),
    Rule(
        type="optimization.nas_completed",
        names=(
            "NAS_COMPLETED",
            "nas_complete",
            "STAGE_NAS_COMPLETE",
            "StageEvent.NAS_COMPLETE",
            "RingRiftEventType.STAGE_NAS_COMPLETE",
        ),
        reason="The predecessor had two targets that differ only in tense.",
    ),
    Rule(
        type="regression.detected",
        names=("REGRESSION_DETECTED",),
        reason="The severity is a field and not a type; the plain name says nothing about it.",
    ),
    Rule(
        type="regression.detected",
        names=("REGRESSION_MINOR",),
        reason="The severity is a field and not a type.",
        sets={"severity": "minor"},
    ),
    Rule(
        type="regression.detected",
        names=("REGRESSION_MODERATE",),
        reason="The severity is a field and not a type.",
        sets={"severity": "moderate"},
    ),
    Rule(
        type="regression.detected",
        names=("REGRESSION_SEVERE",),
        reason="The severity is a field and not a type.",
        sets={"severity": "severe"},
    ),
    Rule(
        type="regression.detected",
        names=("REGRESSION_CRITICAL",),
        reason="The severity is a field and not a type.",
        sets={"severity": "critical"},
    ),
    Rule(type="regression.cleared", names=("REGRESSION_CLEARED",)),
    Rule(
        type="consensus.ledger_started",
        names=("GENESIS", "hashgraph.EventType.GENESIS"),
        reason="An entry of the consensus ledger.",
    ),
    Rule(
        type="consensus.heartbeat_recorded",
        names=("HEARTBEAT", "hashgraph.EventType.HEARTBEAT"),
        reason=(
            "An entry of the consensus ledger; the heartbeats of nodes, tasks and coordinators "
            "have names of their own."
        ),
    ),
    Rule(
        type="consensus.state_synced",
        names=("STATE_SYNC", "hashgraph.EventType.STATE_SYNC"),
        reason="An entry of the consensus ledger; no data is moved, so it is not sync.completed.",
    ),
    Rule(
        type="consensus.evaluation_submitted",
        names=("EVALUATION_SUBMITTED",),
        reason=(
            "Kept apart from evaluation_recorded: it announces on the bus that a result was "
            "handed in, and names the entry by its hash."
        ),
    ),
    Rule(
        type="consensus.evaluation_recorded",
        names=(
            "EVALUATION_RESULT",
            "hashgraph.EventType.EVALUATION_RESULT",
            "hashgraph.EvaluationEventType.EVALUATION_RESULT",
        ),
        reason=(
            "An entry of the consensus ledger, the same in both of its vocabularies: one node's "
            "result before agreement, so it is not evaluation.completed."
        ),
    ),
    Rule(
        type="consensus.evaluation_agreed",
        names=(
            "EVALUATION_CONSENSUS",
            "hashgraph.EventType.EVALUATION_CONSENSUS",
            "hashgraph.EvaluationEventType.EVALUATION_CONSENSUS",
        ),
        reason="An entry of the consensus ledger, the same in both of its vocabularies.",
    ),
    Rule(
        type="consensus.evaluation_disputed",
        names=("EVALUATION_DISPUTE", "hashgraph.EvaluationEventType.EVALUATION_DISPUTE"),
        reason="An entry of the consensus ledger.",
    ),
    Rule(
        type="consensus.elo_recorded",
        names=("ELO_UPDATE", "hashgraph.EventType.ELO_UPDATE"),
        reason=(
            "An entry of the consensus ledger: a rating as one node computed it, so it is not "
            "evaluation.elo_updated, which the rating store sends."
        ),
    ),
    Rule(
        type="consensus.elo_agreed",
        names=("ELO_CONSENSUS", "hashgraph.EventType.ELO_CONSENSUS"),
        reason="An entry of the consensus ledger.",
    ),
    Rule(
        type="consensus.promotion_proposed",
        names=(
            "PromotionEventType.PROPOSAL",
            "PROMOTION_PROPOSAL",
            "hashgraph.EventType.PROMOTION_PROPOSAL",
            "hashgraph.PromotionEventType.PROPOSAL",
        ),
        reason=(
            "An entry of the consensus ledger; PROPOSAL is a member only within its enum, alone "
            "it could be any proposal."
        ),
    ),
    Rule(
        type="consensus.promotion_voted",
        names=(
            "PromotionEventType.VOTE",
            "PROMOTION_VOTE",
            "hashgraph.EventType.PROMOTION_VOTE",
            "hashgraph.PromotionEventType.VOTE",
        ),
        reason=(
            "An entry of the consensus ledger; VOTE is a member only within its enum, alone it "
            "could be any vote."
        ),
    ),
    Rule(
        type="consensus.promotion_decided",
        names=(
            "PromotionEventType.CONSENSUS",
            "PROMOTION_CONSENSUS",
            "hashgraph.PromotionEventType.CONSENSUS",
        ),
        reason=(
            "An entry of the consensus ledger: the votes suffice, either way, so it is not "
            "promotion_approved; CONSENSUS is a member only within its enum."
        ),
    ),
    Rule(
        type="consensus.promotion_certified",
        names=(
            "PROMOTION_CERTIFIED",
            "PromotionEventType.CERTIFICATE",
            "PROMOTION_CERTIFICATE",
            "hashgraph.EventType.PROMOTION_CERTIFIED",
            "hashgraph.PromotionEventType.CERTIFICATE",
        ),
        reason=(
            "An entry of the consensus ledger: a promotion is certified by its certificate; "
            "CERTIFICATE is a member only within its enum."
        ),
    ),
    Rule(
        type="consensus.promotion_approved",
        names=("PROMOTION_CONSENSUS_APPROVED",),
        reason=(
            "Kept apart from promotion_decided: it announces on the bus that the vote went in "
            "favour."
        ),
    ),
    Rule(type="daemon.started", names=("DAEMON_STARTED",)),
    Rule(type="daemon.stopped", names=("DAEMON_STOPPED",)),
    Rule(type="daemon.crash_loop_detected", names=("DAEMON_CRASH_LOOP_DETECTED",)),
    Rule(type="daemon.permanently_failed", names=("DAEMON_PERMANENTLY_FAILED",)),
    Rule(type="daemon.status_changed", names=("DAEMON_STATUS_CHANGED",)),
    Rule(type="daemon.failure_classified", names=("DAEMON_FAILURE_CLASSIFIED",)),
    Rule(type="daemon.failure_escalated", names=("DAEMON_FAILURE_ESCALATED",)),
    Rule(type="daemon.failure_recovered", names=("DAEMON_FAILURE_RECOVERED",)),
    Rule(
        type="daemon.degraded_mode_entered",
        names=("daemon.degraded_mode",),
        reason="A dotted name of the predecessor's daemon manager, in none of its enums.",
    ),
    Rule(
        type="daemon.cascade_breaker_tripped",
        names=("daemon.cascade_breaker_tripped",),
        reason="A dotted name of the predecessor's daemon manager, in none of its enums.",
    ),
    Rule(
        type="daemon.cascade_recovery_completed",
        names=("daemon.cascade_recovery_complete",),
        reason="A dotted name of the predecessor's daemon manager, in none of its enums.",
    ),
    Rule(
        type="daemon.startup_completed",
        names=("system.daemons_ready",),
        reason="A dotted name of the predecessor's daemon manager, in none of its enums.",
    ),
    Rule(type="daemon.loop_startup_failed", names=("P2P_LOOP_STARTUP_FAILED",)),
    Rule(type="daemon.loop_slowed", names=("P2P_LOOP_PERFORMANCE_DEGRADED",)),
    Rule(type="daemon.loop_timed_out", names=("P2P_LOOP_TIMEOUT",)),
    Rule(type="daemon.event_loop_blocked", names=("EVENT_LOOP_BLOCKED",)),
    Rule(type="daemon.handler_failed", names=("HANDLER_FAILED",)),
    Rule(type="daemon.handler_timed_out", names=("HANDLER_TIMEOUT",)),
    Rule(type="daemon.coordinator_heartbeat_sent", names=("COORDINATOR_HEARTBEAT",)),
    Rule(type="daemon.coordinator_health_confirmed", names=("COORDINATOR_HEALTHY",)),
    Rule(type="daemon.coordinator_health_degraded", names=("COORDINATOR_HEALTH_DEGRADED",)),
    Rule(type="daemon.coordinator_health_lost", names=("COORDINATOR_UNHEALTHY",)),
    Rule(type="daemon.coordinator_init_failed", names=("COORDINATOR_INIT_FAILED",)),
    Rule(type="daemon.coordinator_stopped", names=("COORDINATOR_SHUTDOWN",)),
    Rule(type="daemon.coordinator_emergency_stopped", names=("COORDINATOR_EMERGENCY_SHUTDOWN",)),
    Rule(type="daemon.coordinator_failed_over", names=("COORDINATOR_FAILOVER",)),
    Rule(type="daemon.coordinator_handed_over", names=("COORDINATOR_HANDOFF",)),
    Rule(
        type="lock.acquired",
        names=("LOCK_ACQUIRED", "RingRiftEventType.LOCK_ACQUIRED"),
        reason="Known only to the second enum.",
    ),
    Rule(
        type="lock.released",
        names=("LOCK_RELEASED", "RingRiftEventType.LOCK_RELEASED"),
        reason="Known only to the second enum.",
    ),
    Rule(
        type="lock.wait_timed_out",
        names=("LOCK_TIMEOUT",),
        reason="Its payload tells how long a caller waited: the wait ended, not the lock.",
    ),
    Rule(type="lock.deadlock_detected", names=("DEADLOCK_DETECTED",)),
    Rule(type="letter.staleness_detected", names=("DLQ_STALE_EVENTS",)),
    Rule(
        type="letter.batch_replayed",
        names=("DLQ_EVENTS_REPLAYED",),
        reason="Kept apart from letter.replayed: it counts letters and names none.",
    ),
    Rule(
        type="letter.batch_purged",
        names=("DLQ_EVENTS_PURGED",),
        reason="Kept apart from letter.discarded: it counts letters and names none.",
    ),
    Rule(type="system.error_reported", names=("ERROR",)),
    Rule(
        type="system.configuration_updated",
        names=("CONFIG_UPDATED",),
        reason=(
            "The fleet's configuration file, and not the board and player configuration that "
            "the field config means."
        ),
    ),
    Rule(
        type="system.configuration_divergence_detected",
        names=("CONFIG_DIVERGENCE_DETECTED",),
        reason=(
            "The fleet's configuration file, and not the board and player configuration that "
            "the field config means."
        ),
    ),
    Rule(type="system.cache_invalidated", names=("CACHE_INVALIDATED",)),
    Rule(type="system.metrics_updated", names=("METRICS_UPDATED",)),
)
