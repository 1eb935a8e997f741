"""SEND and FETCH+ACK with three replicas against JetStream R3: the same machine, the same run, the same load generator.

    python -m bench.cluster [--seconds 2] [--rounds 3] [--size 256] [--only mq9|jetstream] [--json]
    python -m bench.cluster --catch-up 1000000000 [--size 4096]

Two clusters run at once and are measured in turn, case by case, so that what the machine does meanwhile falls on both:

    mq9         three meta nodes and three brokers; every answer after an fsync on all replicas in sync, of which two must be
    jetstream   three nats-servers with sync_interval: always and streams of three replicas: an answer after an fsync on two

Each is loaded through the node that leads the mailbox (stream, consumer) and through another one. A case is `connections x
outstanding requests`; those `of 8` go to eight mailboxes (streams) that all nodes lead in turn, each connection to one of
them. SEND is a request that is answered when the message is stored; FETCH+ACK reads what SEND stored, in batches of 100, each
confirmed and the confirmation answered.

Printed are messages per second with ratios, latencies of a request or batch, and the processor seconds that all processes of
a system together spent on 100,000 messages: medians of the rounds. Before each measurement its system comes to rest, so that
it does not pay for what was stored or deleted before.

--catch-up: stops one broker, writes that many bytes of payload to mailboxes of all slots, starts it again, and says how long
it takes until it is in every in-sync set.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.broker import BATCH, PULL_MESSAGES, Load, LoadFailed
from bench.catch_up import catch_up
from bench.jetstream_cluster import JetStreamCluster
from bench.mq9_cluster import Mq9Cluster
from bench.systems import PLACES, Box, System, used_s

SENDS: Final = ((1, 1, 1), (1, 256, 1), (64, 16, 1), (8, 1, 8), (64, 16, 8))  # connections, outstanding, mailboxes
PULLS: Final = ((1, 1), (8, 1), (8, 8))  # consumers, mailboxes
FILLED_READ: Final = 0.8  # mailboxes are not filled evenly: nobody is to be measured reading the last one alone
TRIES: Final = 3  # a request that failed spoils a measurement: it is done again
REST_S: Final = 0.25  # one look at how busy a system is
RESTS_MAX: Final = 40

Result = dict[str, Any]
Results = dict[str, dict[str, list[Result]]]  # case -> column -> the results of all rounds


@dataclass(frozen=True, slots=True)
class Case:
    """One row: how much at once, on how many mailboxes."""

    kind: str
    connections: int
    outstanding: int
    mailboxes: int

    @property
    def name(self) -> str:
        spread = f" of {self.mailboxes}" if self.mailboxes > 1 else ""
        return f"{self.kind} {self.connections}{f'x{self.outstanding}' if self.kind == 'SEND' else ''}{spread}"


CASES: Final = (
    *(Case("SEND", connections, outstanding, mailboxes) for connections, outstanding, mailboxes in SENDS),
    *(Case("FETCH+ACK", consumers, BATCH, mailboxes) for consumers, mailboxes in PULLS),
)


class Bench:
    """The systems under load, and how one measurement is done."""

    def __init__(self, load: Load, systems: list[System], options: argparse.Namespace) -> None:
        self._load = load
        self.systems = systems
        self._options = options
        self.idle = {system.name: self._idle(system) for system in systems}  # processor seconds a second at rest
        self.failures: list[str] = []

    def round(self) -> Iterator[tuple[str, str, Result]]:
        """(case, column, result) of everything once."""
        for case in CASES:
            for system in self.systems:
                for place in PLACES:
                    column = f"{system.name} {place}"
                    result = self._tried(case, system, place)
                    if result is not None:
                        yield case.name, column, result

    def _tried(self, case: Case, system: System, place: str) -> Result | None:
        """One measurement; None when it failed each time."""
        measure = self._send if case.kind == "SEND" else self._pull
        for _ in range(TRIES):
            boxes: list[Box] = []
            try:
                boxes = system.boxes(case.mailboxes)
                result = measure(case, system, place, boxes)
                system.drop(boxes)
            except LoadFailed as failure:
                self.failures.append(f"{case.name}, {system.name} {place}: {failure}")
                print(self.failures[-1], file=sys.stderr)
            else:
                return result
        return None

    def _send(self, case: Case, system: System, place: str, boxes: list[Box]) -> Result:
        self._rest(system)
        return self._timed(system, *self._sending(case.connections, case.outstanding, system, place, boxes))

    def _pull(self, case: Case, system: System, place: str, boxes: list[Box]) -> Result:
        """FETCH+ACK of what is stored just before."""
        seconds = self._options.seconds
        filled = self._load.run(*self._sending(8, 256, system, "leader", boxes), seconds=seconds)
        count = min(PULL_MESSAGES, int(filled["messages"] * (FILLED_READ if len(boxes) > 1 else 1)))
        boxes = system.add_readers(boxes)
        mode, source = system.pull_arguments(boxes)
        self._rest(system)
        limit_s = 4 * seconds
        return self._timed(system, mode, _ports(boxes, place), source, case.connections, case.outstanding, count, limit_s)

    def _sending(self, connections: int, outstanding: int, system: System, place: str, boxes: list[Box]) -> tuple[object, ...]:
        subjects, good = system.send_arguments(boxes)
        size, seconds = self._options.size, self._options.seconds
        return ("send", _ports(boxes, place), subjects, connections, outstanding, size, seconds, good)

    def _timed(self, system: System, *arguments: object) -> Result:
        """One measurement, with the processor time it took the system."""
        before_s = used_s(system)
        result = self._load.run(*arguments, seconds=4 * self._options.seconds)
        result["cpu_s_per_100k"] = round(100_000 * (used_s(system) - before_s) / max(1, result["messages"]), 3)
        return result

    # --- Rest -----------------------------------------------------------------------------------------------------------

    def _idle(self, system: System) -> float:
        seconds: float = self._options.seconds
        before_s = used_s(system)
        time.sleep(seconds)
        return round((used_s(system) - before_s) / seconds, 3)

    def _rest(self, system: System) -> None:
        """Wait until a system does little more than it does at rest."""
        for _ in range(RESTS_MAX):
            before_s = used_s(system)
            time.sleep(REST_S)
            if used_s(system) - before_s <= REST_S * (1.5 * self.idle[system.name] + 0.1):
                return


def _ports(boxes: list[Box], place: str) -> str:
    return ",".join(str(box.ports[place]) for box in boxes)


# --- Printing -------------------------------------------------------------------------------------------------------------


def _median(found: list[Result], field: str) -> float:
    values: list[float] = [result[field] for result in found]
    return statistics.median(values)


def _table(title: str, results: Results, columns: list[str], cell: Callable[[list[Result]], str]) -> None:
    print(f"\n{title}")
    print(f"{'':18}" + "".join(f"{column:>20}" for column in columns))
    for case, by_column in results.items():
        print(f"{case:18}" + "".join(f"{cell(by_column[each]) if each in by_column else '-':>20}" for each in columns))


def _ratios(results: Results, pairs: list[tuple[str, str]]) -> None:
    print("\nmessages/s as multiples")
    print(f"{'':18}" + "".join(f"{f'{ours} / {theirs}':>36}" for ours, theirs in pairs))
    for case, by_column in results.items():
        cells = ""
        for pair in pairs:
            rates = [_median(by_column[column], "rate") if column in by_column else 0.0 for column in pair]
            cells += f"{rates[0] / rates[1]:>36.2f}" if all(rates) else f"{'-':>36}"
        print(f"{case:18}{cells}")


def _report(results: Results, bench: Bench) -> None:
    columns = [f"{system.name} {place}" for system in bench.systems for place in PLACES]
    _table("messages/s, median of the rounds", results, columns, lambda found: f"{_median(found, 'rate'):,.0f}")
    names = [system.name for system in bench.systems]
    pairs = [(f"{ours} {place}", f"{theirs} {place}") for place in PLACES for ours, theirs in itertools.pairwise(names)]
    _ratios(results, [*pairs, *((f"{name} {PLACES[1]}", f"{name} {PLACES[0]}") for name in names)])
    title = "ms of a request or of a batch, p50 / p99"
    latency = ("p50_us", "p99_us")
    _table(title, results, columns, lambda found: " / ".join(f"{_median(found, each) / 1000:.2f}" for each in latency))
    title = "processor seconds of all processes for 100,000 messages"
    _table(title, results, columns, lambda found: f"{_median(found, 'cpu_s_per_100k'):.2f}")
    print("\nprocessor seconds a second at rest: " + ", ".join(f"{name} {used:.3f}" for name, used in bench.idle.items()))
    for failure in bench.failures:
        print(f"failed, and done again: {failure}")


# --- Running --------------------------------------------------------------------------------------------------------------


def _measure(options: argparse.Namespace) -> None:
    results: Results = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mq9-bench-", dir=options.directory)))
        load = Load(directory)
        systems: list[System] = []
        if options.only != "jetstream":
            systems.append(Mq9Cluster(directory / "mq9", stack))
        if options.only != "mq9":
            systems.append(JetStreamCluster(directory / "jetstream", stack))
        bench = Bench(load, systems, options)
        for _ in range(options.rounds):
            for case, column, result in bench.round():
                results.setdefault(case, {}).setdefault(column, []).append(result)
        if options.json:
            print(json.dumps({"results": results, "idle": bench.idle, "failures": bench.failures}))
        else:
            _report(results, bench)


def _catch_up(options: argparse.Namespace) -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mq9-bench-", dir=options.directory)))
        load = Load(directory)
        figures = catch_up(Mq9Cluster(directory / "mq9", stack), load, options.catch_up, options.size)
    print(json.dumps(figures) if options.json else "\n".join(f"{name}: {value}" for name, value in figures.items()))


def end(*_: object) -> None:
    """SIGTERM: stop what was started."""
    sys.exit(1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=0, help="bytes of a payload (256; with --catch-up 4096)")
    parser.add_argument("--only", choices=("mq9", "jetstream"), help="measure one of the two")
    parser.add_argument("--catch-up", type=int, nargs="?", const=1_000_000_000, metavar="BYTES", help="(1 GB)")
    parser.add_argument("--directory", default=None, help="where the stores are: a directory on the disk to measure")
    parser.add_argument("--json", action="store_true", help="print all results instead of the tables")
    options = parser.parse_args()
    options.size = options.size or (4096 if options.catch_up else 256)
    signal.signal(signal.SIGTERM, end)
    if not options.json:
        print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {platform.platform()}")
    if options.catch_up:
        _catch_up(options)
    else:
        _measure(options)


if __name__ == "__main__":
    main()
