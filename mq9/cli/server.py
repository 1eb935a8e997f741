"""`mq9 server` and `mq9 broker`: the broker, by itself or as a member of a cluster."""

from __future__ import annotations

import sys
from typing import Any

import typer

from mq9.cli import serving
from mq9.errors import Mq9Error
from mq9.settings import ENV_PREFIX, FIELDS, Settings, resolve

app = typer.Typer()


def serve(**values: Any) -> None:
    """Run the broker: one process, no configuration needed, data in ./mq9-data.

    A setting is taken from its flag, else from its environment variable (--data-dir is MQ9_DATA_DIR), else from --config
    (data_dir = "..."), else it is the default.
    Prints one line when it is ready; on SIGTERM or Ctrl-C it drains and exits 0.
    """
    _run(_settings(values))


def member(**values: Any) -> None:
    """Run a broker as a member of a cluster: the same as `mq9 server` with --node-id and --meta, and refused without them.

    Settings are taken from where `mq9 server` takes them. What members say to each other and to the meta service needs
    --cluster-token (better: MQ9_CLUSTER_TOKEN) or certificates as soon as one of them listens beyond localhost.
    """
    settings = _settings(values)
    if not (settings.node_id and settings.meta):
        raise typer.BadParameter("a member of a cluster needs --node-id and --meta; `mq9 server` runs one broker alone")
    _run(settings)


def _settings(values: dict[str, Any]) -> Settings:
    config = values.pop("config") or ""
    try:
        # Typer has read the variables already, as the values of flags that were not given.
        return resolve(serving.given(values), {}, config)
    except Mq9Error as failure:
        raise typer.BadParameter(failure.text) from None


def _run(settings: Settings) -> None:
    # Loaded only now: the broker is most of what there is to import, and --help needs none of it.
    from broker_node.__main__ import run  # noqa: PLC0415

    serving.forget_secrets(FIELDS, ENV_PREFIX)
    sys.stdout.flush()
    raise typer.Exit(run(settings))


serving.register(app, "server", serve, FIELDS, ENV_PREFIX)
serving.register(app, "broker", member, FIELDS, ENV_PREFIX)
