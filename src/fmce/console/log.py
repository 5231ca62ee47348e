"""Messages of the library, shown where a program asks for them.

Library code logs under "fmce" and prints nothing: `logger.info` for what a person at a terminal wants to
read, `logger.warning` for what went wrong and was survived. The command line calls `show_messages`;
a program of your own may do so too, or handle the logger "fmce" as it likes.
"""

import logging
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
    """Show the library's messages from this level on, and its progress if that includes INFO."""
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines())
        logger.propagate = False
    logger.setLevel(level)


def messages_shown() -> bool:
    """Return whether somebody reads information, and so progress."""
    return logger.isEnabledFor(logging.INFO)
