"""`mq9 server`: the broker. Its flags are the fields of mq9.settings; nothing is said twice."""

from __future__ import annotations

import inspect
import os
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from mq9.errors import Mq9Error
from mq9.settings import ENV_PREFIX, FIELDS, env, flag, resolve

app = typer.Typer()


def _parameter(name: str) -> inspect.Parameter:
    """The option of one setting. None stands for "not given": the default is the setting's own, shown as text."""
    field = FIELDS[name]
    choices = field.metadata["choices"]
    default = field.default
    kind: Any = StrEnum(name, {choice: choice for choice in choices}) if choices else type(default)
    option = typer.Option(
        f"{flag(name)}/--no-{flag(name)[2:]}" if isinstance(default, bool) else flag(name),
        envvar=env(name),
        show_envvar=False,  # it follows from the flag, and would make every entry a line longer
        help=field.metadata["doc"].replace("[", "\\["),  # else Rich takes it for markup
        show_default=False if default == "" else str(default).lower() if isinstance(default, bool) else str(default),
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])


def serve(**values: Any) -> None:
    """Run the broker: one process, no configuration needed, data in ./mq9-data.

    A setting is taken from its flag, else from its environment variable (--data-dir is MQ9_DATA_DIR), else from --config
    (data_dir = "..."), else it is the default.
    Prints one line when it is ready; on SIGTERM or Ctrl-C it drains and exits 0.
    """
    config = values.pop("config") or ""
    flags = {name: value.value if isinstance(value, StrEnum) else value for name, value in values.items()}
    try:
        # Typer has read the variables already, as the values of flags that were not given.
        settings = resolve(flags, {}, config)
    except Mq9Error as failure:
        raise typer.BadParameter(failure.text) from None
    # Loaded only now: the broker is most of what there is to import, and --help needs none of it.
    from broker_node.__main__ import run  # noqa: PLC0415

    for name in FIELDS:
        # Children and crash reports need no copy of the secrets that are in the settings now.
        if FIELDS[name].metadata["secret"]:
            os.environ.pop(env(name), None)
    sys.stdout.flush()
    raise typer.Exit(run(settings))


_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None, typer.Option("--config", envvar=f"{ENV_PREFIX}CONFIG", metavar="FILE", help="Settings file (TOML).")
    ],
)
_PARAMETERS = [_CONFIG, *map(_parameter, FIELDS)]
serve.__signature__ = inspect.Signature(_PARAMETERS)  # type: ignore[attr-defined]  # what typer reads
serve.__annotations__ = {parameter.name: parameter.annotation for parameter in _PARAMETERS}
app.command("server")(serve)
