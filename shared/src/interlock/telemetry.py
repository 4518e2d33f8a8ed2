"""OpenTelemetry: configured by the standard ``OTEL_*`` variables, silent without them.

The trace context travels in ``traceparent`` headers whether or not anything is exported here.
"""

import os
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from interlock.errors import InterlockError
from interlock_schemas import envelope

__all__ = ["configure", "extract", "inject", "recording", "shutdown", "tracer"]

tracer = trace.get_tracer("interlock")

_PROVIDER_BY_NAME = "OTEL_PYTHON_TRACER_PROVIDER" in os.environ


def _exporter_name(signal: str) -> str | None:
    """The exporter that the environment asks for, or None for silence."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    name = os.environ.get(f"OTEL_{signal}_EXPORTER", "")
    if name:
        return None if name == "none" else name
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return "otlp" if any(os.environ.get(variable) for variable in endpoints) else None


def _load_exporter(signal: str, name: str) -> Any:
    """The exporter of that name, as OpenTelemetry's own distributions register theirs."""
    group = f"opentelemetry_{signal.lower()}_exporter"
    wanted = (name, f"{name}_proto_http") if name == "otlp" else (name,)
    for candidate in wanted:
        for point in entry_points(group=group, name=candidate):
            try:
                return point.load()()
            except ImportError:
                continue
    raise InterlockError(
        f"OTEL_{signal}_EXPORTER asks for {name!r}, which is not installed: "
        "pip install 'interlock[otlp]' for otlp"
    )


def configure(service: str, version: str) -> None:
    """Start exporting what the environment asks for. Called once, when a service starts."""
    resource = Resource.create({"service.name": service, "service.version": version})
    traces, measured = _exporter_name("TRACES"), _exporter_name("METRICS")
    if traces:
        exporter: SpanExporter = _load_exporter("TRACES", traces)
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
    if measured:
        metric_exporter: MetricExporter = _load_exporter("METRICS", measured)
        reader = PeriodicExportingMetricReader(metric_exporter)
        metrics.set_meter_provider(
            MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)
        )


def shutdown() -> None:
    """Send what waits. Called once, when a service ends."""
    for provider in (trace.get_tracer_provider(), metrics.get_meter_provider()):
        if isinstance(provider, TracerProvider | MeterProvider):
            provider.shutdown()


def recording() -> bool:
    """Whether spans go anywhere: without a provider they cost time and tell nobody."""
    # Asked for every message; the public way reads the environment each time there is none.
    if not _PROVIDER_BY_NAME and getattr(trace, "_TRACER_PROVIDER", True) is None:
        return False
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def extract(headers: Mapping[str, str]) -> context.Context:
    """The trace context that a message carries."""
    carrier = {
        name: value
        for name in (envelope.TRACEPARENT, envelope.TRACESTATE)
        if (value := envelope.lookup(headers, name))
    }
    return propagate.extract(carrier)


def inject(headers: dict[str, str]) -> dict[str, str]:
    """Add the current trace context to the headers of a message about to be sent."""
    if context.get_current():
        propagate.inject(headers)
    return headers
