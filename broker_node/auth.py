"""Who may connect: user and password, a token, or a client certificate; and what repeated failures cost.

Secrets are compared as digests under a key made at start, with `hmac.compare_digest`: neither the length nor the first
differing byte of a guess shows in the time it takes. A failure is answered late: each one from an address within the
window doubles the wait, and while failures are remembered the address may have only a few unauthenticated connections,
so that guessing is slow whether it is done in a row or in parallel. A right password is never made to wait.
"""

from __future__ import annotations

import hmac
import secrets

from mq9.clock import Clock
from mq9.limits import (
    AUTH_FAILURE_ADDRESSES_MAX,
    AUTH_FAILURE_DELAY_S,
    AUTH_FAILURE_DELAY_S_MAX,
    AUTH_FAILURE_WINDOW_S,
)
from mq9.nats.connect import ConnectOptions
from mq9.settings import Settings


class Authenticator:
    """Checks CONNECT against the settings. Certificates are checked by the TLS layer before CONNECT is read."""

    __slots__ = ("_key", "_password", "_token", "_user", "required")

    def __init__(self, settings: Settings) -> None:
        self._key = secrets.token_bytes(32)
        self._user = self._digest(settings.user) if settings.user or settings.password else None
        self._password = self._digest(settings.password)
        self._token = self._digest(settings.token) if settings.token else None
        self.required = self._user is not None or self._token is not None

    def _digest(self, secret: str) -> bytes:
        # Lone surrogates can stand in JSON strings; they are somebody's guess, not an error of ours.
        return hmac.digest(self._key, secret.encode("utf-8", "surrogatepass"), "sha256")

    def accepts(self, options: ConnectOptions) -> bool:
        """Whether these credentials open the door. With both user and token configured either one does."""
        if not self.required:
            return True
        # Everything is computed and compared whatever came before, so that time tells nothing.
        user_fits = hmac.compare_digest(self._digest(options.user or ""), self._user or b"")
        password_fits = hmac.compare_digest(self._digest(options.password or ""), self._password)
        token_fits = hmac.compare_digest(self._digest(options.auth_token or ""), self._token or b"")
        # A token may also come as the user of a URL: nats://TOKEN@host.
        user_is_token = hmac.compare_digest(self._digest(options.user or ""), self._token or b"") and not options.password
        return (user_fits and password_fits) or token_fits or user_is_token


class FailureLog:
    """Recent failures by address, bounded."""

    __slots__ = ("_clock", "_failures")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}  # address -> count, time of the last; oldest first

    def add(self, address: str) -> float:
        """Note a failure; returns the seconds its answer has to wait."""
        count = self.recent(address) + 1
        self._failures.pop(address, None)
        if len(self._failures) >= AUTH_FAILURE_ADDRESSES_MAX:
            del self._failures[next(iter(self._failures))]
        self._failures[address] = (count, self._clock.monotonic_s())
        return min(AUTH_FAILURE_DELAY_S_MAX, AUTH_FAILURE_DELAY_S * 2.0 ** min(count - 1, 16))

    def recent(self, address: str) -> int:
        """Failures of the address that are still remembered."""
        count, last = self._failures.get(address, (0, 0.0))
        return count if count and self._clock.monotonic_s() - last < AUTH_FAILURE_WINDOW_S else 0
