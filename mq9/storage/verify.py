"""Is a data directory whole? `verify_directory` asks a child process, so that no damage can end this one.

For `mq9 verify DIR`, and for a start after the last process died in a way that damage may have caused.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from mq9.errors import error
from mq9.storage.directory import borrowed
from mq9.storage.findings import Done, Finding
from mq9.storage.lmdb_file import DATA_FILE

FINDINGS_MAX: Final = 1000  # kept; the rest are counted
_SOURCE: Final = str(Path(__file__).resolve().parents[2])  # where the child finds this package


@dataclass(slots=True)
class Report:
    """What a verification found. `rows` is by table name; empty when the file could not be walked."""

    directory: Path
    findings: list[Finding] = field(default_factory=list)
    findings_dropped: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    mailboxes: int = 0

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def exit_code(self) -> int:
        """0 whole, 1 damaged."""
        return 0 if self.ok else 1

    def summary(self) -> str:
        """One line."""
        if self.ok:
            return f"{sum(self.rows.values())} rows of {self.mailboxes} mailboxes are whole"
        more = len(self.findings) - 1 + self.findings_dropped
        return f"{self.findings[0]}" + (f" (and {more} more)" if more else "")

    def lines(self) -> list[str]:
        """The whole report as text, a finding a line and the summary last."""
        found = [str(finding) for finding in self.findings]
        if self.findings_dropped:
            found.append(f"and {self.findings_dropped} more findings")
        end = self.summary() if self.ok else f"{len(self.findings) + self.findings_dropped} findings: {self.directory} is damaged"
        return [*found, end]


def verify_directory(directory: Path | str, *, locked: bool = False) -> Report:
    """Read everything in `directory` and report what is damaged. Changes nothing in it.

    `locked`: the caller holds the directory already. Raises STORAGE_FAILED when it is in use by a server (stop it, or
    verify a copy) or is no data directory.
    """
    path = Path(directory).absolute()
    if not (path / DATA_FILE).is_file():
        raise error("STORAGE_FAILED", reason=f"{path} is not a data directory: it has no {DATA_FILE}")
    with contextlib.nullcontext() if locked else borrowed(path):
        return _ask_child(path)


def _ask_child(path: Path) -> Report:
    report = Report(path)
    search_path = os.pathsep.join(filter(None, (_SOURCE, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "mq9.storage.verify_child", str(path)]
    decoder = msgspec.json.Decoder(Finding | Done)
    done = False
    with subprocess.Popen(  # noqa: S603 - this interpreter, this package, one path as an argument of its own
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": search_path}
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            item = decoder.decode(line)
            if isinstance(item, Done):
                report.rows, report.mailboxes, done = item.rows, item.mailboxes, True
            elif len(report.findings) < FINDINGS_MAX:
                report.findings.append(item)
            else:
                report.findings_dropped += 1
    if not done or child.returncode:
        report.findings.append(Finding("process", f"the process reading {path / DATA_FILE} {_ending(child.returncode)}"))
    return report


def _ending(code: int) -> str:
    """How a child process ended, in words."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited {code}"
