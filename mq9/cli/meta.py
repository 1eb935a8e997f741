"""`mq9 meta`: a node of the meta service. The same as `python -m meta_service`."""

from __future__ import annotations

import sys
from typing import Any

import typer

from meta_service.settings import ENV_PREFIX, FIELDS, resolve
from mq9.cli import serving
from mq9.errors import Mq9Error

app = typer.Typer()


def serve(**values: Any) -> None:
    """Run a node of the meta service, which keeps what a cluster of brokers must agree on.

    A setting is taken from its flag, else from its environment variable (--data-dir is MQ9_META_DATA_DIR), else from --config
    (data_dir = "..."), else it is the default.
    Prints one line when it serves; on SIGTERM or Ctrl-C it hands its leadership on and exits 0.
    """
    config = values.pop("config") or ""
    try:
        settings = resolve(serving.given(values), {}, config)
    except Mq9Error as failure:
        raise typer.BadParameter(failure.text) from None
    from meta_service.__main__ import run  # noqa: PLC0415  # Raft and gRPC, which --help does not need

    serving.forget_secrets(FIELDS, ENV_PREFIX)
    sys.stdout.flush()
    raise typer.Exit(run(settings))


serving.register(app, "meta", serve, FIELDS, ENV_PREFIX)
