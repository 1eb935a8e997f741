"""What the domain needs of an event loop: four callables, so that it imports none and a test can turn it by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Cancellable(Protocol):
    """A pending call."""

    def cancel(self) -> None:
        """It will not happen."""


class LoopHooks(Protocol):
    """All but `call_soon_threadsafe` are called on the loop's thread only."""

    def call_soon(self, call: Callable[[], None]) -> object:
        """Run `call` once this turn of the loop is over."""

    def call_later(self, seconds: float, call: Callable[[], None]) -> Cancellable:
        """Run `call` after that long."""

    def call_soon_threadsafe(self, call: Callable[[], None]) -> object:
        """Run `call` on the loop, from any thread."""
