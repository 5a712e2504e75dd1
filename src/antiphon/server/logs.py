"""Log lines: readable text in a terminal, JSON otherwise. A request's lines carry its id, and never a prompt or a key."""

import logging
import sys
from typing import Any

import structlog

log: Any = structlog.get_logger("antiphon")


def configure_logs(level: str, log_format: str) -> None:
    """Send log lines to standard error in the chosen form (``auto``, ``human``, ``json``)."""
    human = log_format == "human" or (log_format == "auto" and sys.stderr.isatty())
    # Plain tracebacks: the pretty ones show local variables, and with them prompts and keys.
    console = structlog.dev.ConsoleRenderer(pad_event_to=0, exception_formatter=structlog.dev.plain_traceback)
    renderer = console if human else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if human else "iso", utc=not human),
            *([] if human else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.handlers = [_Forwarding()]


class _Forwarding(logging.Handler):
    """Writes uvicorn's messages as lines of this log, which it would else print bare."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {} if record.exc_info is None else {"exc_info": record.exc_info}
        log.log(record.levelno, "http", message=record.getMessage().strip(), **fields)
