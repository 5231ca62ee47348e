"""Messages of the library, shown where a program asks for them.

Library code logs under "fmce" and prints nothing: `logger.info` for what a person at a terminal wants
to read, `logger.warning` for a problem that was survived. The command line calls `show_messages`;
other programs may call it too, or handle the logger "fmce" themselves.
"""

import logging
import os
import sys

logger = logging.getLogger("fmce")


class _Lines(logging.Handler):
    """Information on standard output, the rest on standard error with its level."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno < logging.WARNING:
            print(text, flush=True)
        else:
            print(f"{record.levelname.lower()}: {text}", file=sys.stderr, flush=True)


def show_messages(level: int = logging.INFO) -> None:
    """Show the library's messages from this level on, and its progress if that includes INFO.

    Of the processes that torchrun starts, only the first shows more than errors.
    """
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines())
        logger.propagate = False
    first = "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"
    logger.setLevel(level if first else max(level, logging.ERROR))


def messages_shown() -> bool:
    """Return whether information is shown, and so progress."""
    return logger.isEnabledFor(logging.INFO)
