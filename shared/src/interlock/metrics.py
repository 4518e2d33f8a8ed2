"""Every metric of the kit: its name, what it counts, and what to do about it."""

from typing import Final

from opentelemetry import metrics

__all__ = ["DEAD_LETTERED", "DELIVERED", "HANDLED", "HANDLE_SECONDS", "PUBLISHED", "RETRIED"]

_meter = metrics.get_meter("interlock")

#: Messages acknowledged by the broker, by type or subject root. Falls to zero: the broker is away
#: or a producer died; look at `interlock status`.
PUBLISHED: Final = _meter.create_counter("interlock.published", unit="{message}")

#: Messages handed to a consumer, redeliveries included. Much above `handled`: handlers fail.
DELIVERED: Final = _meter.create_counter("interlock.delivered", unit="{message}")

#: Messages whose handler returned. Should follow `delivered` closely.
HANDLED: Final = _meter.create_counter("interlock.handled", unit="{message}")

#: Messages put back for another attempt. A steady rate: a dependency of the handler is down.
RETRIED: Final = _meter.create_counter("interlock.retried", unit="{message}")

#: Messages that became dead letters, by code. Above zero: `interlock dlq list` says why.
DEAD_LETTERED: Final = _meter.create_counter("interlock.dead_lettered", unit="{message}")

#: Seconds that a handler took for one message. Near the handler's limit: raise it or split work.
HANDLE_SECONDS: Final = _meter.create_histogram("interlock.handle.duration", unit="s")
