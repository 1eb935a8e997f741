"""Power cuts, replayed: run a program under strace, then make the directory a power cut would have left at any moment.

    command = strace_command([...], root, trace_file)     # run it any way you like, e.g. as a server process
    trace = Trace.parse(trace_file, root)
    for cut in power_cuts(trace, count=300, seed=1):
        cut.write_to(directory)                           # what the disk holds after the cut
        said = cut.output()                               # everything the program had written elsewhere by then

A kill -9 cannot show a missing fsync, because the page cache survives it. Here only what was synced is kept for certain.
Of the rest each cut keeps, by its plan, nothing, everything, any subset (which is what reordering amounts to), or parts
of writes in sectors of 512 bytes. Changes of names (create, rename, unlink) become durable when the directory is synced,
and otherwise in order, as on a journalling file system.

Understood are pwrite, write and writev at the descriptor's offset, O_SYNC and O_DSYNC descriptors, fsync, fdatasync,
ftruncate and fallocate. Files written through a shared mapping hold zeros after a cut: nothing may depend on them.
A sync covers the writes that had returned when it was called, and counts when it returns; a write may reach the disk from
the moment it is called; output counts from the moment it is written.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

SECTOR_BYTES: Final = 512
_TRACED: Final = (
    "openat,open,creat,pwrite64,pwritev,pwritev2,write,writev,sendto,sendmsg,lseek,fsync,fdatasync,msync,mmap,truncate,"
    "ftruncate,fallocate,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir"
)
_STRING_BYTES_MAX: Final = 64 * 1024 * 1024


def unavailable() -> str:
    """Why strace cannot be used here, or an empty string."""
    strace = shutil.which("strace")
    if strace is None:
        return "strace is not installed"
    result = subprocess.run([strace, "-f", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return "" if result.returncode == 0 else f"strace may not trace here: {result.stderr.decode(errors='replace').strip()}"


def strace_command(command: list[str], trace_file: Path) -> list[str]:
    """`command` run under strace with what this module needs to know going to `trace_file`."""
    # Hexadecimal strings need no unquoting, -y names the file behind each descriptor, and the seccomp filter lets the
    # program run at full speed between the calls of interest.
    options = [
        "-f",
        "-y",
        "-xx",
        "-v",
        "-s",
        str(_STRING_BYTES_MAX),
        "--seccomp-bpf",
        "-e",
        f"trace={_TRACED}",
        "-e",
        "signal=none",
    ]
    return ["strace", *options, "-o", str(trace_file), *command]


# --- What happened ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    """`data` at `offset`; a write through an O_DSYNC descriptor is durable by itself when it returns."""

    path: str
    offset: int
    data: bytes
    durable: bool


@dataclass(frozen=True, slots=True)
class Resize:
    """The file gets `size` bytes; with `grow_only` no fewer than it has."""

    path: str
    size: int
    grow_only: bool


@dataclass(frozen=True, slots=True)
class Sync:
    """fsync or fdatasync of a file or directory."""

    path: str


@dataclass(frozen=True, slots=True)
class Names:
    """A change of the directory tree: create, mkdir, rename (to `target`), unlink or rmdir."""

    action: str
    path: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes written to anything that is not a file of the traced directory: what the world was told."""

    data: bytes


Change = Write | Resize | Sync | Names | Output


class Event(NamedTuple):
    """A call: from `begin` its effect may be seen, at `end` it has returned. Both are moments of the trace."""

    begin: int
    end: int
    change: Change


@dataclass(slots=True)
class Trace:
    """Every call of interest, by the moment it began. `moments` is one more than the last."""

    events: list[Event]
    moments: int
    mapped: set[str]  # files written through a mapping

    @classmethod
    def parse(cls, trace_file: Path, root: Path, cwd: Path | None = None) -> Trace:
        """Read what strace wrote of a program that began with `root` absent or empty, in the working directory `cwd`."""
        return _Parser(str(root.resolve()), (cwd or Path.cwd()).resolve()).parse(trace_file)


_LINE = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)$")
_DESCRIPTOR = re.compile(r"^(\d+)<([^>]*)>")
_DIRECTORY = re.compile(r"^(?:AT_FDCWD|\d+)<([^>]*)>, ")
_STRING = re.compile(r'"([^"]*)"')
_NUMBER = re.compile(r"^-?(?:0x)?[0-9a-f]+")
_UNFINISHED = "<unfinished ...>"


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _path(text: str) -> str:
    return _unhex(text).decode(errors="surrogateescape")


class _Call(NamedTuple):
    """One system call of the trace with its arguments as text."""

    name: str
    arguments: str
    result: int
    begin: int
    end: int


class _Parser:
    """strace's text to events."""

    def __init__(self, root: str, cwd: Path) -> None:
        self.root = root
        self.cwd = cwd
        self.events: list[Event] = []
        self.mapped: set[str] = set()
        self.moment = 0
        self.synchronous: set[tuple[str, str]] = set()  # (descriptor, path) opened with O_SYNC or O_DSYNC
        self.appending: set[tuple[str, str]] = set()
        self.offsets: dict[tuple[str, str], int] = {}
        self.sizes: dict[str, int] = {}  # of the files that exist now
        self.calls: dict[str, Callable[[_Call], None]] = {
            **dict.fromkeys(("openat", "open", "creat"), self._open),
            **dict.fromkeys(("write", "writev", "pwrite64", "pwritev", "pwritev2", "sendto", "sendmsg"), self._write),
            **dict.fromkeys(("fsync", "fdatasync"), self._sync),
            **dict.fromkeys(("ftruncate", "truncate", "fallocate"), self._resize),
            **dict.fromkeys(("rename", "renameat", "renameat2"), self._rename),
            **dict.fromkeys(("unlink", "unlinkat", "mkdir", "mkdirat", "rmdir"), self._name),
            "lseek": self._seek,
            "mmap": self._map,
            "msync": self._ignore,
        }

    def parse(self, trace_file: Path) -> Trace:
        begun: dict[str, tuple[int, str]] = {}  # by process: calls whose end is not seen yet
        with trace_file.open(encoding="ascii", errors="replace") as lines:
            for line in lines:
                match = _LINE.match(line)
                if match is None:
                    continue
                pid, name, rest = match.groups()
                self.moment += 2  # its begin and its end, so that a cut may fall between them
                if rest.endswith(_UNFINISHED):
                    begun[pid] = (self.moment, rest.removesuffix(_UNFINISHED))
                    continue
                begin, head = begun.pop(pid, (self.moment - 1, ""))
                self._call(name, head + rest, begin)
        # A call that never returned may have had its effect.
        for begin, head in begun.values():
            self.moment += 1
            self._unreturned(head, begin)
        self.events.sort(key=lambda event: event.begin)
        return Trace(self.events, self.moment + 1, self.mapped)

    def _call(self, name: str, text: str, begin: int) -> None:
        arguments, _, result = text.rpartition(" = ")  # strace aligns the result with spaces
        arguments = arguments.rstrip().removesuffix(")")
        number = _NUMBER.match(result)
        if number is None or number[0].startswith("-"):
            return
        value = int(number[0], 0) if number[0].startswith("0x") else int(number[0])
        self.calls[name](_Call(name, arguments, value, begin, self.moment))

    def _unreturned(self, arguments: str, begin: int) -> None:
        if _DESCRIPTOR.match(arguments) and '"' in arguments and "iov_base" not in arguments:
            size = len(_unhex(_STRING.findall(arguments)[0]))
            self._write(_Call("pwrite64", arguments, size, begin, self.moment))

    def _inside(self, path: str) -> bool:
        return path == self.root or path.startswith(self.root + "/")

    def _add(self, call: _Call, change: Change) -> None:
        self.events.append(Event(call.begin, call.end, change))

    def _descriptor(self, call: _Call) -> tuple[str, str]:
        match = _DESCRIPTOR.match(call.arguments)
        assert match is not None, call
        return match[1], _path(match[2])

    def _paths(self, call: _Call) -> list[str]:
        """The paths a call names, each joined to the directory it is relative to."""
        found = []
        rest = call.arguments
        while (string := _STRING.search(rest)) is not None:
            directory = _DIRECTORY.match(rest)
            base = Path(_path(directory[1])) if directory else self.cwd
            found.append(str(base / _path(string[1])))
            rest = rest[string.end() :].removeprefix(", ")
        return found

    def _ignore(self, call: _Call) -> None:
        """Nothing to learn."""

    def _open(self, call: _Call) -> None:
        path = self._paths(call)[0]
        if not self._inside(path):
            return
        key = (str(call.result), path)
        for flags, known in ((("O_SYNC", "O_DSYNC"), self.synchronous), (("O_APPEND",), self.appending)):
            known.discard(key)
            if any(flag in call.arguments for flag in flags):
                known.add(key)
        self.offsets[key] = 0
        if path not in self.sizes and ("O_CREAT" in call.arguments or call.name == "creat"):
            self._add(call, Names("create", path))
            self.sizes[path] = 0
        elif "O_TRUNC" in call.arguments:
            self._add(call, Resize(path, 0, grow_only=False))
            self.sizes[path] = 0

    def _write(self, call: _Call) -> None:
        key = self._descriptor(call)
        path = key[1]
        data = b"".join(map(_unhex, _STRING.findall(call.arguments)))[: call.result]
        if not self._inside(path):
            self._add(call, Output(data))
            return
        if call.name.startswith("pwrite"):
            offset = int(call.arguments.rsplit(", ", 1)[1])
        else:
            offset = self.sizes[path] if key in self.appending else self.offsets.get(key, 0)
            self.offsets[key] = offset + len(data)
        self.sizes[path] = max(self.sizes.get(path, 0), offset + len(data))
        self._add(call, Write(path, offset, data, key in self.synchronous))

    def _seek(self, call: _Call) -> None:
        self.offsets[self._descriptor(call)] = call.result

    def _sync(self, call: _Call) -> None:
        path = self._descriptor(call)[1]
        if self._inside(path) or path == str(Path(self.root).parent):
            self._add(call, Sync(path))

    def _resize(self, call: _Call) -> None:
        path = self._paths(call)[0] if call.name == "truncate" else self._descriptor(call)[1]
        if not self._inside(path):
            return
        numbers = [int(number) for number in re.findall(r", (\d+)", call.arguments)]
        size = numbers[1] + numbers[2] if call.name == "fallocate" else numbers[0]
        if call.name == "fallocate" and "KEEP_SIZE" in call.arguments:
            return
        self.sizes[path] = max(size, self.sizes.get(path, 0)) if call.name == "fallocate" else size
        self._add(call, Resize(path, size, grow_only=call.name == "fallocate"))

    def _rename(self, call: _Call) -> None:
        old, new = self._paths(call)[:2]
        if self._inside(old) and self._inside(new):
            self.sizes[new] = self.sizes.pop(old, 0)
            self._add(call, Names("rename", old, new))

    def _name(self, call: _Call) -> None:
        path = self._paths(call)[0]
        if self._inside(path):
            action = "rmdir" if "AT_REMOVEDIR" in call.arguments else call.name.removesuffix("at")
            self.sizes.pop(path, None)
            self._add(call, Names(action, path))

    def _map(self, call: _Call) -> None:
        if "PROT_WRITE" in call.arguments and "MAP_SHARED" in call.arguments and "MAP_ANONYMOUS" not in call.arguments:
            descriptor = re.search(r", \d+<([^>]*)>", call.arguments)
            if descriptor is not None and self._inside(_path(descriptor[1])):
                self.mapped.add(_path(descriptor[1]))


# --- What the disk holds ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _File:
    """An inode: its durable bytes, and the changes the page cache still holds, by the moment they began."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)
    synced: list[Write] = field(default_factory=list)  # synchronous writes that are newer than something pending
    mapped: bool = False


Tree = dict[str, _File | None]  # path -> file, None for a directory


def _apply_names(tree: Tree, change: Names, created: _File | None) -> None:
    path = change.path
    if change.action == "create":
        tree[path] = created
    elif change.action == "mkdir":
        tree[path] = None
    elif change.action in ("unlink", "rmdir"):
        tree.pop(path, None)
    else:
        for name in [name for name in tree if name == path or name.startswith(path + "/")]:
            tree[change.target + name[len(path) :]] = tree.pop(name)


def _apply(content: bytearray, change: Write | Resize) -> None:
    if isinstance(change, Resize):
        if change.size > len(content):
            content.extend(bytes(change.size - len(content)))
        elif not change.grow_only:
            del content[change.size :]
        return
    end = change.offset + len(change.data)
    if end > len(content):
        content.extend(bytes(end - len(content)))
    content[change.offset : end] = change.data


class _Disk:
    """The state of the disk, moved forward through a trace."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        # What happens when: calls take effect when they begin, syncs when they return.
        steps: list[tuple[int, int, Event]] = []
        for number, event in enumerate(trace.events):
            change = event.change
            steps.append((event.end if isinstance(change, Sync) else event.begin, number, event))
            if isinstance(change, Write) and change.durable:
                steps.append((event.end, number, event))
        self._steps = sorted(steps, key=lambda step: step[:2])
        self._next = 0
        self._live: Tree = {}
        self._durable: Tree = {}
        self._names: list[tuple[Event, _File | None]] = []  # changes of names that are not durable, in order
        self._returning: set[int] = set()  # synchronous writes that have begun

    def advance(self, moment: int) -> None:
        """Let everything happen that happens up to `moment`."""
        while self._next < len(self._steps) and self._steps[self._next][0] <= moment:
            _, number, event = self._steps[self._next]
            self._next += 1
            change = event.change
            if isinstance(change, Names):
                self._begin_names(event, change)
            elif isinstance(change, Sync):
                self._sync(event, change)
            elif isinstance(change, Write) and number in self._returning:
                self._settle(change, event)
            elif not isinstance(change, Output):
                if isinstance(change, Write) and change.durable:
                    self._returning.add(number)
                self._file(change.path).pending.append(event)

    def _file(self, path: str) -> _File:
        found = self._live[path]
        assert found is not None, f"{path} is a directory"
        return found

    def _begin_names(self, event: Event, change: Names) -> None:
        created = _File(mapped=change.path in self._trace.mapped) if change.action == "create" else None
        self._names.append((event, created))
        _apply_names(self._live, change, created)

    def _sync(self, event: Event, change: Sync) -> None:
        file = self._live.get(change.path)
        if file is None:
            self._sync_names(event, change.path)
            return
        covered = [each for each in file.pending if each.end < event.begin]
        file.pending = [each for each in file.pending if each.end >= event.begin]
        self._make_durable(file, covered)

    def _sync_names(self, event: Event, directory: str) -> None:
        last = 0
        for number, (each, _) in enumerate(self._names, 1):
            names = each.change
            assert isinstance(names, Names)
            if str(Path(names.target or names.path).parent) == directory and each.end < event.begin:
                last = number
        for each, created in self._names[:last]:
            assert isinstance(each.change, Names)
            _apply_names(self._durable, each.change, created)
        del self._names[:last]

    def _settle(self, change: Write, event: Event) -> None:
        """A synchronous write returned: it is durable, whatever else of its file is not."""
        file = self._file(change.path)
        file.pending.remove(event)
        file.synced.append(change)
        self._make_durable(file, [event])

    @staticmethod
    def _make_durable(file: _File, covered: list[Event]) -> None:
        for each in covered:
            assert isinstance(each.change, Write | Resize)
            _apply(file.durable, each.change)
        if not file.pending:
            file.synced.clear()

    def crash(self, plan: str, rng: random.Random) -> dict[str, bytes | None]:
        """What is found after a cut now: path -> content, None for a directory."""
        tree = dict(self._durable)
        kept = {"nothing": 0, "everything": len(self._names)}.get(plan, rng.randint(0, len(self._names)))
        for event, created in self._names[:kept]:
            assert isinstance(event.change, Names)
            _apply_names(tree, event.change, created)
        return {path: None if file is None else self._content(file, plan, rng) for path, file in tree.items()}

    @staticmethod
    def _content(file: _File, plan: str, rng: random.Random) -> bytes:
        content = bytearray(file.durable)
        for event in file.pending:
            change = event.change
            assert isinstance(change, Write | Resize)
            if plan == "nothing" or (plan == "some" and rng.random() < 0.5):
                continue
            if isinstance(change, Resize) or plan == "everything" or (plan == "some" and rng.random() < 0.5):
                _apply(content, change)
                continue
            for start in range(0, len(change.data), SECTOR_BYTES):
                if rng.random() < 0.5:
                    _apply(content, Write(change.path, change.offset + start, change.data[start : start + SECTOR_BYTES], False))
        for write in file.synced:
            _apply(content, write)
        return bytes(len(content)) if file.mapped else bytes(content)


# --- Cutting ----------------------------------------------------------------------------------------------------------

PLANS: Final = ("nothing", "some", "torn", "everything")


@dataclass(slots=True)
class Cut:
    """One power cut. `plan` says what became of unsynced writes: one of PLANS."""

    moment: int
    plan: str
    files: dict[str, bytes | None]
    _trace: Trace
    _root: str

    def write_to(self, directory: Path) -> None:
        """Make `directory`, anew, what the traced directory is after the cut. It may come out absent."""
        if directory.exists():
            shutil.rmtree(directory)
        for path, content in sorted(self.files.items()):
            target = directory / Path(path).relative_to(self._root)
            if content is None:
                target.mkdir(exist_ok=True)
            elif target.parent.is_dir():
                target.write_bytes(content)

    def output(self) -> bytes:
        """Everything that had been written elsewhere before the cut."""
        events = self._trace.events
        begun = events[: bisect_right(events, self.moment, key=lambda event: event.begin)]
        return b"".join(event.change.data for event in begun if isinstance(event.change, Output))


def power_cuts(trace: Trace, root: Path, count: int, seed: int, first_moment: int = 0) -> Iterator[Cut]:
    """`count` cuts at moments spread over the whole trace, by every plan in turn, the same for the same seed.

    Half of the moments are where it is most delicate: next to a sync, or next to output.
    """
    rng = random.Random(seed)
    delicate = [
        moment
        for event in trace.events
        if isinstance(event.change, Sync | Output) or (isinstance(event.change, Write) and event.change.durable)
        for moment in (event.begin - 1, event.begin, event.end)
        if moment >= first_moment
    ]
    moments = [rng.choice(delicate) if number % 2 else rng.randint(first_moment, trace.moments) for number in range(count)]
    disk = _Disk(trace)
    for number, moment in enumerate(sorted(moments)):
        disk.advance(moment)
        plan = PLANS[number % len(PLANS)]
        yield Cut(moment, plan, disk.crash(plan, rng), trace, str(root.resolve()))
