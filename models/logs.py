"""Logs: one event, one line, to stderr; the sentence is fixed, the facts are fields.

Tracebacks are plain: local variables, which may hold keys and signed addresses, are never shown.
"""

from __future__ import annotations

import logging
import sys

import structlog

from models.errors import SettingsError


def configure(level: str) -> None:
    """Raises SettingsError for a level that is none."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise SettingsError(f"PACKSHOT_LOG: {level!r} is not a level; write debug, info, warning or error")
    person = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if person
            else structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
