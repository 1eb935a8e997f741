"""Exit codes, and which error ends with which."""

from __future__ import annotations

from typing import Final

from mq9.errors import Forbidden, Mq9Error, NotFound, RequestTimeout, UnavailableError

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_REACHABLE: Final = 3
NOT_ALLOWED: Final = 4
NOT_FOUND: Final = 5
TIMEOUT: Final = 6
INTERRUPTED: Final = 130  # as shells say for SIGINT

# First match wins: a timeout is also an UnavailableError.
_BY_CLASS: Final = (
    (NotFound, NOT_FOUND),
    (Forbidden, NOT_ALLOWED),
    (RequestTimeout, TIMEOUT),
    (UnavailableError, NOT_REACHABLE),
)


def exit_code(failure: Mq9Error) -> int:
    """The exit code that `failure` ends a command with."""
    return next((code for kind, code in _BY_CLASS if isinstance(failure, kind)), FAILED)
