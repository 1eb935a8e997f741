"""Options of the commands that run a server: one for each field of its settings, so that nothing is said twice."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import Field
from enum import StrEnum
from typing import Annotated, Any

import typer

Fields = Mapping[str, Field[Any]]


def _parameter(name: str, field: Field[Any], prefix: str) -> inspect.Parameter:
    """The option of one setting. None stands for "not given": the default is the setting's own, shown as text."""
    choices = field.metadata["choices"]
    default = field.default
    flag = "--" + name.replace("_", "-")
    kind: Any = StrEnum(name, {choice: choice for choice in choices}) if choices else type(default)
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if isinstance(default, bool) else flag,
        envvar=prefix + name.upper(),
        show_envvar=False,  # it follows from the flag, and would make every entry a line longer
        help=field.metadata["doc"].replace("[", "\\["),  # else Rich takes it for markup
        show_default=False if default == "" else str(default).lower() if isinstance(default, bool) else str(default),
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])


def _config(prefix: str) -> inspect.Parameter:
    option = typer.Option("--config", envvar=f"{prefix}CONFIG", metavar="FILE", help="Settings file (TOML).")
    return inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option])


def register(app: typer.Typer, name: str, function: Callable[..., None], fields: Fields, prefix: str) -> None:
    """Make `function` the command `name`, with --config and an option for every field of these settings."""
    parameters = [_config(prefix), *(_parameter(each, field, prefix) for each, field in fields.items())]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name)(function)


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """What typer read, as `resolve` of the settings takes it."""
    return {name: value.value if isinstance(value, StrEnum) else value for name, value in values.items()}


def forget_secrets(fields: Fields, prefix: str) -> None:
    """Children and crash reports need no copy of the secrets that are in the settings now."""
    for name, field in fields.items():
        if field.metadata["secret"]:
            os.environ.pop(prefix + name.upper(), None)
