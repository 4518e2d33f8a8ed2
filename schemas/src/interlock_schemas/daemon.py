"""Long-running processes of the predecessor: daemons, coordinators, their loops and handlers.

Interlock's own services are supervised from outside and report through telemetry; these types let
old daemons be followed while both run.
"""

from interlock_schemas.event import open_type

__all__ = ["TYPES"]


TYPES = (
    open_type("daemon.started", "A daemon runs; emitted by the daemon manager."),
    open_type(
        "daemon.stopped",
        "A daemon was stopped in good order; emitted by the daemon manager.",
    ),
    open_type(
        "daemon.crash_loop_detected",
        "A daemon crashes again soon after each restart; emitted by the daemon manager before it "
        "gives up.",
    ),
    open_type(
        "daemon.permanently_failed",
        "A daemon used up its restarts and stays down until somebody acts; emitted by the daemon "
        "manager.",
    ),
    open_type(
        "daemon.status_changed",
        "A daemon was found stuck, crashed or restarted, with its old and new status; emitted by "
        "the daemon watchdog.",
    ),
    open_type(
        "daemon.failure_classified",
        "A daemon's failures were judged transient, degraded, persistent or critical; emitted by "
        "the daemon manager.",
    ),
    open_type(
        "daemon.failure_escalated",
        "A daemon's failures are now judged graver than before; emitted by the daemon manager.",
    ),
    open_type(
        "daemon.failure_recovered",
        "A daemon that had failed works again; emitted by the daemon manager.",
    ),
    open_type(
        "daemon.degraded_mode_entered",
        "A node goes on with fewer daemons because some cannot run; emitted by the daemon manager.",
    ),
    open_type(
        "daemon.cascade_breaker_tripped",
        "So many daemons restarted at once that restarts are held back; emitted by the daemon "
        "manager.",
    ),
    open_type(
        "daemon.cascade_recovery_completed",
        "Daemons may restart again after a cascade of failures; emitted by the daemon manager.",
    ),
    open_type(
        "daemon.startup_completed",
        "Every daemon of a node that should run does; emitted by the daemon manager.",
    ),
    open_type(
        "daemon.loop_startup_failed",
        "A background loop of the peer process did not start in time; emitted by its loop manager.",
    ),
    open_type(
        "daemon.loop_slowed",
        "A background loop takes more than half of its interval for one round; emitted by its "
        "loop manager.",
    ),
    open_type(
        "daemon.loop_timed_out",
        "One round of a background loop exceeded its limit; emitted by its loop manager.",
    ),
    open_type(
        "daemon.event_loop_blocked",
        "A process could not react for seconds because something synchronous held its event "
        "loop; emitted by the latency monitor of that process.",
    ),
    open_type(
        "daemon.handler_failed",
        "An event handler raised an error; emitted by the coordinator that ran it.",
    ),
    open_type(
        "daemon.handler_timed_out",
        "An event handler did not return in time; emitted by the coordinator that ran it.",
    ),
    open_type(
        "daemon.coordinator_heartbeat_sent",
        "A coordinator is alive, with counts of what it handled; emitted by that coordinator.",
    ),
    open_type(
        "daemon.coordinator_health_confirmed",
        "A coordinator works as it should; emitted by the coordinator's own health check.",
    ),
    open_type(
        "daemon.coordinator_health_degraded",
        "A coordinator works, but with issues that it lists; emitted by the coordinator's own "
        "health check.",
    ),
    open_type(
        "daemon.coordinator_health_lost",
        "A coordinator does not do its work any more; emitted by the coordinator's own health "
        "check.",
    ),
    open_type(
        "daemon.coordinator_init_failed",
        "A coordinator could not be set up at the start of its process; emitted by the bootstrap.",
    ),
    open_type(
        "daemon.coordinator_stopped",
        "A coordinator ended in good order, with what it left undone; emitted by that coordinator.",
    ),
    open_type(
        "daemon.coordinator_emergency_stopped",
        "The primary coordinator ended at once to save its machine; emitted by its memory guard.",
    ),
    open_type(
        "daemon.coordinator_failed_over",
        "The standby coordinator took over because the primary was gone; emitted by the standby.",
    ),
    open_type(
        "daemon.coordinator_handed_over",
        "The acting coordinator gave the role back to the recovered primary; emitted by the one "
        "that gave it.",
    ),
)
