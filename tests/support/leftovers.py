"""What a failed test leaves behind is let go at once, so that no other test is blamed for it.

A traceback keeps a failed test's sockets, loops and tasks alive, and Python keeps the newest traceback (`sys.last_value`).
They would be collected in the middle of some later test, whose warnings are errors: one failure would look like two, the
second in a test that has nothing to do with it. Nothing is forgiven that way: the test has failed already, and what a
passing test leaves is not touched here.

Also a pytest plugin by itself: `-p tests.support.leftovers`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator

import pytest

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember that a phase of this test failed."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """After a failed test: drop its traceback, and collect what that frees without telling pytest."""
    done = yield
    if item.stash.get(_FAILED, False):
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            if hasattr(sys, name):
                delattr(sys, name)
        told = sys.unraisablehook
        sys.unraisablehook = lambda _: None
        try:
            gc.collect()
        finally:
            sys.unraisablehook = told
    return done
