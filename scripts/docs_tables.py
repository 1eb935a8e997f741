"""The tables of docs/ that repeat what the code says: written from the code, and compared with it by tests/tidy.

    python -m scripts.docs_tables      write them anew (make docs), and the settings in the Helm chart's schema

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the rest of a page is written by people.
"""

from __future__ import annotations

import ast
import asyncio
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from prometheus_client.core import Metric

from broker_node.monitor.metrics import BrokerCollector
from broker_node.router.dispatch import command_table
from broker_node.server import Server
from meta_service.settings import FIELDS as META_FIELDS
from mq9 import errors, limits
from mq9 import settings as settings_module
from mq9.cli.command import PANEL
from mq9.cli.root import app
from mq9.clock import SystemClock
from mq9.settings import FIELDS, Settings, env, flag
from scripts import helm_schema

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- table: (?P<name>[a-z]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def commands() -> str:
    """Every command: its subject and the first sentence of its handler's module."""
    rows = []
    for noun_verb, command in command_table().items():
        module = sys.modules[command.handle.__module__]
        subject, _, sentence = (module.__doc__ or "").partition("\n\n")[0].replace("\n", " ").partition(": ")
        name = ".".join(token.decode() for token in noun_verb)
        if not re.match(rf"{re.escape(name)}(\.|$)", subject) or not sentence:
            raise SystemExit(f"{module.__file__}: the docstring does not begin with `{name}...: what it does`")
        rows.append((f"`$mq9.AI.{subject}`", sentence.strip(), f"`{module.__name__.rpartition('.')[2]}.py`"))
    return _table(("subject", "what it does", "handler"), rows)


def error_codes() -> str:
    """Every row of the error table, with the exception clients raise."""
    rows = []
    for code, row in errors.CODES.items():
        kind = type(errors.from_reply(code, "")).__name__
        retry = "yes" if row.retryable else ""
        rows.append((f"`{code}`", f"`{row.template}`", str(row.status), retry, f"`{kind}`", row.doc))
    return _table(("code", "text", "status", "retry", "exception", "when"), rows)


def settings() -> str:
    """Every setting: flag, environment, default, doc."""
    rows = []
    for name, field in FIELDS.items():
        default = f"`{field.default}`" if field.default != "" else ""
        rows.append((f"`{flag(name)}`", f"`{env(name)}`", default, field.metadata["doc"]))
    return _table(("flag", "environment", "default", "what it is"), rows)


def meta_settings() -> str:
    """Every setting of a meta node: flag, default, doc."""
    rows = [
        (f"`{flag(name)}`", f"`{field.default}`" if field.default != "" else "", field.metadata["doc"])
        for name, field in META_FIELDS.items()
    ]
    return _table(("flag", "default", "what it is"), rows)


def _readable(name: str, value: float) -> str:
    """A number with the unit that its name carries."""
    if "_BYTES" in name and isinstance(value, int):
        for size, unit in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if value >= size and value % size == 0:
                return f"{value // size} {unit}"
        return f"{value:,} B"
    if re.search(r"_MS(_|$)", name):
        return f"{value:,} ms"
    if re.search(r"_S(_|$)", name):
        return f"{int(value) // 86_400} days" if value >= 10 * 86_400 else f"{value:,} s"
    return f"{value:,}"


def _constants(source: str) -> dict[str, ast.expr]:
    """The annotated names of a module or of its classes, with what is assigned to them."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.AnnAssign) and node.value is not None]
    return {node.target.id: node.value for node in nodes if isinstance(node.target, ast.Name) and node.value is not None}


def _limit_lines() -> Iterator[tuple[str, str, str]]:
    """(section, name, reason) of every constant of mq9/limits.py, in order."""
    section = ""
    source = Path(limits.__file__).read_text()
    names = _constants(source)
    for line in source.splitlines():
        if match := re.fullmatch(r"# --- (.+?) -+", line):
            section = match[1]
        name, _, comment = line.partition(": Final")
        if name in names:
            yield section, name, comment.partition("#")[2].strip()


def _flags_of_limits() -> dict[str, str]:
    """Limit -> the flag whose default it is."""
    fields = _constants(Path(settings_module.__file__).read_text())
    found = {}
    for name, value in fields.items():
        for node in ast.walk(value):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "limits" and name in FIELDS:
                found[node.attr] = f"`{flag(name)}`"
    return found


def limit_values() -> str:
    """Every limit: value and reason, by section, and the setting that changes it."""
    flags = _flags_of_limits()
    sections: dict[str, list[tuple[str, ...]]] = {}
    for section, name, reason in _limit_lines():
        row = (f"`{name}`", _readable(name, getattr(limits, name)), reason, flags.get(name, ""))
        sections.setdefault(section, []).append(row)
    head = ("limit", "value", "why", "setting")
    return "".join(f"\n### {section}\n\n{_table(head, rows)}" for section, rows in sections.items()) + "\n"


def metrics() -> str:
    """Every metric of a server, from a server: name, kind, what it says."""

    async def collect() -> list[Metric]:
        quiet = Settings(host="127.0.0.1", port=0, monitor_port=-1, storage="memory", embedding="none")
        server = Server(quiet, SystemClock())
        await server.start()
        families = list(BrokerCollector(server).collect())
        await server.drain()
        return families

    suffixes = {"counter": "_total", "info": "_info"}
    rows = [
        (f"`{family.name}{suffixes.get(family.type, '')}`", family.type, family.documentation)
        for family in asyncio.run(collect())
    ]
    return _table(("metric", "kind", "what"), rows)


EVERY_SETTING = {
    "server": "every [setting](settings.md)",
    "broker": "every [setting](settings.md)",
    "meta": "every [setting of the meta service](meta.md#settings)",
}


def _leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(words, command) of every command of the command line that does something."""
    names = command.list_commands(None) if hasattr(command, "list_commands") else []
    if not names:
        yield " ".join(words), command
    for name in names:
        yield from _leaves(command.get_command(None, name), (*words, name))


def _is_common(option: Any) -> bool:
    """Whether many commands have it: how to connect, --json, --help."""
    return option.rich_help_panel == PANEL or option.name in {"help", "json"}


def cli() -> str:
    """Every command of the command line: its arguments, its own options, the first sentence of its help."""
    rows = []
    for words, command in _leaves(typer.main.get_command(app)):
        given = [each for each in command.params if each.param_type_name == "argument"]
        metavars = [(each.metavar or each.name.upper(), each.required) for each in given]
        arguments = [metavar if required else f"[{metavar}]" for metavar, required in metavars]
        options = [each.opts[0] for each in command.params if each not in given and not _is_common(each)]
        shown = EVERY_SETTING.get(words) or " ".join(f"`{option}`" for option in options)
        sentence = re.split(r"(?<=[^.])\.(?:\s|$)", " ".join(command.help.split()), maxsplit=1)[0]
        rows.append((f"`mq9 {' '.join((words, *arguments))}`", sentence, shown))
    return _table(("command", "what it does", "options"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "cli": cli,
    "commands": commands,
    "errors": error_codes,
    "limits": limit_values,
    "metasettings": meta_settings,
    "metrics": metrics,
    "settings": settings,
}


def rewritten(text: str) -> str:
    """`text` with every marked table as the code has it now."""
    return MARKED.sub(lambda match: match[1] + TABLES[match["name"]]() + match[3], text)


def pages() -> list[Path]:
    """The pages that have such tables."""
    return [path for path in sorted((ROOT / "docs").rglob("*.md")) if MARKED.search(path.read_text())]


def main() -> None:
    """Write what differs."""
    for path in pages():
        text = path.read_text()
        new = rewritten(text)
        if new != text:
            path.write_text(new)
            print(f"wrote {path.relative_to(ROOT)}")
    helm_schema.main()


if __name__ == "__main__":
    main()
