"""SEND, FETCH+ACK and core messages against nats-server: the same machine, the same run, the same load generator.

    python -m bench.broker [--seconds 2] [--rounds 3] [--size 256] [--json]

Three servers are measured in turn, case by case, so that what the machine does meanwhile falls on all of them:

    mq9                 `mq9 server`: every answer after an fsync
    jetstream always    nats-server with sync_interval: always, the same promise
    jetstream default   nats-server as it comes: an fsync every two minutes

A case is `connections x outstanding requests`. SEND is a request that is answered when the message is stored; JetStream's
is a publish with an acknowledgement. FETCH+ACK reads what SEND stored, in batches of 100, each confirmed and the
confirmation answered. Core is one publisher to one subscriber, nothing stored. The load generator (load.c) is compiled
with the C compiler of the machine.

Printed are messages per second and ratios, medians of the rounds, and the processor seconds the server spent on 100,000
messages: those say most where other programs run on the same cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tests.support.nats_server import NatsServer
from tests.support.raw import RawClient
from tests.support.server import ServerProcess

HERE = Path(__file__).parent
CASES = ((1, 1), (1, 256), (64, 1), (64, 16))  # connections x outstanding
PULLS = (1, 8)  # consumers of one group
BATCH = 100
PULL_MESSAGES = 200_000
SETTLE_S = 30.0  # how long one measurement may take beyond its time before it is given up


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, all its threads, in seconds; 0 where the system does not tell."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


class LoadFailed(SystemExit):
    """A measurement that gives no figure. Ends a benchmark that does not handle it."""


@dataclass
class Target:
    """One server under load. `name` is its column."""

    name: str
    port: int
    client: RawClient
    is_mq9: bool
    pid: int = 0
    boxes: int = 0

    def cpu_s(self) -> float:
        """Processor time of the server so far, all its threads, in seconds; 0 where the system does not tell."""
        return cpu_s(self.pid)

    def fresh(self) -> str:
        """A new mailbox, or a new stream with a consumer; its name."""
        self.boxes += 1
        name = f"box{self.boxes}"
        if self.is_mq9:
            self._must(b"$mq9.AI.MAILBOX.CREATE", {"name": name})
            return name
        stream = {"name": name, "subjects": [f"load.{name}"], "storage": "file", "retention": "limits"}
        self._must(f"$JS.API.STREAM.CREATE.{name}".encode(), stream)
        consumer = {"durable_name": "g", "ack_policy": "all", "deliver_policy": "all", "max_ack_pending": -1}
        body = {"stream_name": name, "config": consumer}
        self._must(f"$JS.API.CONSUMER.DURABLE.CREATE.{name}.g".encode(), body)
        return name

    def drop(self, name: str) -> None:
        """Take it away with what is in it."""
        subject = f"$mq9.AI.MAILBOX.REMOVE.{name}" if self.is_mq9 else f"$JS.API.STREAM.DELETE.{name}"
        self._must(subject.encode(), {})

    def _must(self, subject: bytes, body: dict[str, Any]) -> None:
        reply = self.client.call(subject, body)
        if reply.get("error"):
            raise SystemExit(f"{self.name}: {reply}")

    def send_arguments(self, name: str) -> tuple[str, str]:
        """(subject, what a good reply holds) for `load send`."""
        return (f"$mq9.AI.MSG.SEND.{name}", '"error":""') if self.is_mq9 else (f"load.{name}", '"seq":')

    def pull_arguments(self, name: str) -> tuple[str, str]:
        """(mode, what to read) for the pulling modes."""
        return ("mq9", name) if self.is_mq9 else ("jetstream", f"{name}.g")


class Load:
    """The compiled generator."""

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise SystemExit("bench.broker needs a C compiler for its load generator (Debian: apt-get install gcc libc6-dev)")
        self.program = directory / "load"
        subprocess.run([compiler, "-O2", "-o", self.program, HERE / "load.c"], check=True)

    def run(self, *arguments: object, seconds: float) -> dict[str, Any]:
        """One measurement, as load.c prints it."""
        command = [str(self.program), *map(str, arguments)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + SETTLE_S, check=False)
        except subprocess.TimeoutExpired as failure:
            raise LoadFailed(f"{' '.join(command)}: not done after {failure.timeout:.0f} s") from None
        if done.returncode:
            raise LoadFailed(f"{' '.join(command)}: {done.stderr}")
        result: dict[str, Any] = json.loads(done.stdout)
        if result["errors"]:
            raise LoadFailed(f"{' '.join(command)}: {result}")
        return result


def _targets(stack: ExitStack, directory: Path) -> list[Target]:
    """Start the three servers; the stack stops them."""
    mq9 = ServerProcess(directory / "mq9", embedding="none").start()  # no model is loaded beside the first measurements
    stack.callback(mq9.stop)
    found = [Target("mq9", mq9.port, mq9.raw(), is_mq9=True, pid=mq9.pid)]
    for name, interval in (("jetstream always", "always"), ("jetstream default", "2m")):
        folder = directory / name.replace(" ", "-")
        folder.mkdir()
        config = folder / "nats.conf"
        config.write_text(f'jetstream {{ store_dir: "{folder}", sync_interval: {interval} }}\n')
        server = NatsServer(folder, "-c", str(config)).start()
        stack.callback(server.stop)
        found.append(Target(name, server.port, server.raw(), is_mq9=False, pid=server.pid))
    return found


def _timed(load: Load, target: Target, *arguments: object, seconds: float) -> dict[str, Any]:
    """One measurement, with the processor time it took the server."""
    before_s = target.cpu_s()
    result = load.run(*arguments, seconds=seconds)
    result["cpu_s_per_100k"] = round(100_000 * (target.cpu_s() - before_s) / max(1, result["messages"]), 3)
    return result


def _cores(load: Load, targets: list[Target], options: argparse.Namespace) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(case, target, result) of every core measurement of one round. The two nats-servers differ in nothing here."""
    for target in targets[:2]:
        arguments = ("core", target.port, "load.core", 1, 50_000, options.size, options.seconds)
        yield "core 1x1", target.name, _timed(load, target, *arguments, seconds=options.seconds)


def _sends(load: Load, targets: list[Target], options: argparse.Namespace) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(case, target, result) of every SEND measurement of one round."""
    for connections, outstanding in CASES:
        for target in targets:
            name = target.fresh()
            subject, good = target.send_arguments(name)
            arguments = ("send", target.port, subject, connections, outstanding, options.size, options.seconds, good)
            yield f"SEND {connections}x{outstanding}", target.name, _timed(load, target, *arguments, seconds=options.seconds)
            target.drop(name)


def _pulls(load: Load, targets: list[Target], options: argparse.Namespace) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(case, target, result) of every FETCH+ACK measurement of one round; what is read is stored just before."""
    for consumers in PULLS:
        for target in targets:
            name = target.fresh()
            subject, good = target.send_arguments(name)
            filled = load.run("send", target.port, subject, 8, 256, options.size, options.seconds, good, seconds=options.seconds)
            count = min(PULL_MESSAGES, filled["messages"])
            mode, source = target.pull_arguments(name)
            limit_s = 4 * options.seconds
            result = _timed(load, target, mode, target.port, source, consumers, BATCH, count, limit_s, seconds=limit_s)
            yield f"FETCH+ACK {consumers} of {BATCH}", target.name, result
            target.drop(name)


def measure(options: argparse.Namespace) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """case -> target -> the results of all rounds."""
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mq9-bench-", dir=options.directory)))
        load = Load(directory)
        targets = _targets(stack, directory)
        for _ in range(options.rounds):
            for case, target, result in chain.from_iterable(kind(load, targets, options) for kind in (_sends, _pulls, _cores)):
                results.setdefault(case, {}).setdefault(target, []).append(result)
    return results


def _median(found: list[dict[str, Any]], field: str) -> float:
    values: list[float] = [result[field] for result in found]
    return statistics.median(values)


def _ratio(ours: list[dict[str, Any]], theirs: list[dict[str, Any]] | None) -> str:
    rate = _median(theirs, "rate") if theirs else 0.0
    return f"{_median(ours, 'rate') / rate:>9.2f}" if rate else f"{'-':>9}"


def _report(results: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    print("messages/s, median of the rounds (p99 of one request or batch in ms), and mq9 as a multiple of the others;")
    print("then processor seconds of the server for 100,000 messages")
    names = ("mq9", "jetstream always", "jetstream default")
    print(f"{'':18}" + "".join(f"{name:>24}" for name in names) + f"{'/always':>9}{'/default':>9}" + f"{'cpu s/100k':>24}")
    for case, by_target in results.items():
        cells, ratios, cpu = "", "", []
        for name in names:
            found = by_target.get(name)
            cell = f"{_median(found, 'rate'):,.0f} ({_median(found, 'p99_us') / 1000:.1f})" if found else "-"
            cells += f"{cell:>24}"
            cpu.append(f"{_median(found, 'cpu_s_per_100k'):.2f}" if found else "-")
            if name != "mq9":
                ratios += _ratio(by_target["mq9"], found)
        print(f"{case:18}{cells}{ratios}{' / '.join(cpu):>24}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=256, help="bytes of a payload")
    parser.add_argument("--directory", default=None, help="where the stores are: a directory on the disk to measure")
    parser.add_argument("--json", action="store_true", help="print all results instead of the table")
    options = parser.parse_args()
    load_before = os.getloadavg()
    results = measure(options)
    if options.json:
        print(json.dumps(results))
    else:
        print(f"load of the machine before: {load_before[0]:.1f} on {os.cpu_count()} cores; {platform.platform()}")
        _report(results)


if __name__ == "__main__":
    main()
