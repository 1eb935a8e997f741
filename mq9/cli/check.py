"""`mq9 check`: probes for monitoring. Exit codes are those of Nagios plugins: 0 ok, 1 warning, 2 critical, 3 unknown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final

import typer

from mq9.cli import output
from mq9.cli.arguments import duration
from mq9.cli.cluster_session import ClusterSession
from mq9.cli.command import Session, command
from mq9.errors import Mq9Error, RequestError

app = typer.Typer(
    no_args_is_help=True, help="Probes for monitoring; exit codes as Nagios plugins: 0 ok, 1 warning, 2 critical, 3 unknown."
)

OK: Final = 0
WARNING: Final = 1
CRITICAL: Final = 2
UNKNOWN: Final = 3
_WORDS: Final = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


class _Result:
    """What a probe finds: the worst level decides, every value is told."""

    def __init__(self, probe: str) -> None:
        self.probe = probe
        self.level = OK
        self.texts: list[str] = []
        self.values: dict[str, float] = {}
        self.performance: list[str] = []

    def measure(self, name: str, value: float, unit: str, warning: float | None, critical: float | None) -> None:
        """Take a value and compare it with its thresholds; None never complains."""
        self.values[name] = value
        limits = ";".join("" if limit is None else f"{limit:g}" for limit in (warning, critical))
        self.performance.append(f"{name}={value:g}{unit};{limits}")
        level = OK
        for limit, word in ((warning, WARNING), (critical, CRITICAL)):
            if limit is not None and value > limit:
                level = word
        if level:
            self.texts.append(f"{name} is {value:g}{unit}")
        self.level = max(self.level, level)

    def fail(self, level: int, text: str) -> None:
        """The probe could not be made."""
        self.level = level
        self.texts = [text]

    def show(self, *, as_json: bool) -> None:
        text = ", ".join(self.texts) or "everything is within its limits"
        if as_json:
            output.line(json.dumps({"probe": self.probe, "status": _WORDS[self.level], "text": text, "values": self.values}))
        else:
            performance = f" | {' '.join(self.performance)}" if self.performance else ""
            output.line(f"{self.probe} {_WORDS[self.level]}: {text}{performance}")


@contextmanager
def _probe(session: Session | ClusterSession, name: str) -> Iterator[_Result]:
    """A probe whose failures are findings: what does not answer is critical, what we asked wrongly is unknown."""
    result = _Result(name)
    try:
        yield result
    except RequestError as failure:
        result.fail(CRITICAL if failure.code == "MAILBOX_NOT_FOUND" else UNKNOWN, str(failure))
    except Mq9Error as failure:
        result.fail(CRITICAL, str(failure))
    result.show(as_json=session.json)
    raise typer.Exit(result.level)


def _threshold(text: str) -> Any:
    return typer.Option(help=text, show_default=False, min=0)


def _time_threshold(text: str) -> Any:
    return typer.Option(parser=duration, metavar="DURATION", help=text, show_default=False)


@command(app, "connection")
async def connection(
    session: Session,
    warn: Annotated[float | None, _time_threshold("Warn above this round trip.")] = None,
    crit: Annotated[float | None, _time_threshold("Critical above this round trip.")] = None,
) -> None:
    """Connect and measure the time of one request."""
    from time import perf_counter  # noqa: PLC0415

    with _probe(session, "connection") as result:
        begin = perf_counter()
        async with session.client() as client:
            connected = perf_counter()
            await client.mailbox_list(limit=1)
            result.measure("rtt", perf_counter() - connected, "s", warn, crit)
            result.measure("connect", connected - begin, "s", None, None)


@command(app, "mailbox")
async def mailbox(
    session: Session,
    address: Annotated[str, typer.Argument(help="Address of the mailbox.", metavar="ADDRESS", show_default=False)],
    group: Annotated[str | None, typer.Option("--group", "-g", help="This group's lag; without one, the largest.")] = None,
    warn_messages: Annotated[int | None, _threshold("Warn above this many stored messages.")] = None,
    crit_messages: Annotated[int | None, _threshold("Critical above this many stored messages.")] = None,
    warn_lag: Annotated[int | None, _threshold("Warn above this many unconfirmed messages of a group.")] = None,
    crit_lag: Annotated[int | None, _threshold("Critical above this many unconfirmed messages of a group.")] = None,
) -> None:
    """Compare a mailbox's depth and its groups' lag with limits."""
    with _probe(session, "mailbox") as result:
        async with session.client() as client:
            info = await client.mailbox_info(address)
        result.measure("messages", info.messages, "", warn_messages, crit_messages)
        result.measure("bytes", info.bytes, "B", None, None)
        groups = [each for each in info.groups if group in (None, each.name)]
        if group is not None and not groups:
            result.fail(UNKNOWN, f"mailbox {address} has no group {group}")
        elif groups:
            result.measure("lag", max(each.lag for each in groups), "", warn_lag, crit_lag)


@command(app, "cluster", ClusterSession)
async def cluster(session: ClusterSession) -> None:
    """Ask the meta service: critical when slots take no messages, warning when a broker, a replica or a meta node is missing."""
    from mq9.cli.cluster import meta_nodes  # noqa: PLC0415
    from mq9.meta.summary import summary  # noqa: PLC0415
    from mq9.v1 import meta_pb2 as meta  # noqa: PLC0415

    with _probe(session, "cluster") as result:
        async with session.client() as client:
            nodes, _ = await meta_nodes(session, client)
            view = await client.view()
        found = summary(view.config, view.brokers, view.slots)
        fenced = sum(broker.state == meta.FENCED for broker in view.brokers)
        result.measure("not_writable", len(found.not_writable), "", None, 0)
        result.measure("without_primary", len(found.without_primary), "", None, 0)
        result.measure("under_replicated", len(found.under_replicated), "", 0, None)
        result.measure("fenced", fenced, "", 0, None)
        result.measure("meta_unreachable", sum(node["role"] == "unreachable" for node in nodes), "", 0, None)
        result.measure("brokers", len(view.brokers) - fenced, "", None, None)
