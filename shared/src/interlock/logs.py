"""Structured logs, through the standard library's logging.

In a worker they obey whatever the worker has set up, which by default is warnings on standard
error. A service calls `configure`: JSON lines for machines, columns on a terminal.
"""

import logging
import sys
from typing import Any

import structlog

__all__ = ["configure", "get_logger"]


def get_logger(name: str) -> Any:
    """A logger that takes fields: ``log.info("dead letter", letter=id)``."""
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.render_to_log_kwargs,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def configure(level: str = "info", format: str = "auto") -> None:
    """Set up logging for this process. `format`: ``auto``, ``json`` or ``console``."""
    console = format == "console" or (format == "auto" and sys.stderr.isatty())
    renderer: structlog.types.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("interlock").setLevel(level.upper())
