"""What concerns no single domain: errors, the fleet's own configuration, caches, metrics."""

from interlock_schemas.event import open_type

__all__ = ["TYPES"]

TYPES = (
    open_type(
        "system.error_reported",
        "A component met an error it wants known; emitted by that component.",
    ),
    open_type(
        "system.configuration_updated",
        "The fleet's configuration file changed on a node and others should follow; emitted by "
        "that node.",
    ),
    open_type(
        "system.configuration_divergence_detected",
        "A node's configuration file is not the one its peers have; emitted by the configuration "
        "sync.",
    ),
    open_type(
        "system.cache_invalidated",
        "Cached entries must not be used any more; emitted by the owner of what they were copied "
        "from.",
    ),
    open_type(
        "system.metrics_updated",
        "A component published figures about itself; emitted by that component.",
    ),
)
