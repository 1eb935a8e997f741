"""What every command that talks to a broker has in common: how to connect, `--json`, and how it ends.

    @command(app, "info")
    async def info(session: Session, address: Annotated[str, ...]) -> None:

registers `info` with its own parameters and the common ones; `session` has the common ones' values and makes the client.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Final, get_type_hints

import typer

from mq9.cli import exits, output
from mq9.errors import Mq9Error

if TYPE_CHECKING:
    import ssl

    from mq9.client.client import Client
    from mq9.client.connection import ConnectOptions

PANEL: Final = "Connection"


def connection_option(*names: str, env: str | list[str], help_: str) -> Any:
    """An option of how to connect, which `--help` shows apart from a command's own."""
    return typer.Option(*names, envvar=env, help=help_, rich_help_panel=PANEL, show_default=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The common options of one run. Every field is an option of every command."""

    server: Annotated[
        str, connection_option("--server", "-s", env=["MQ9_URL", "NATS_URL"], help_="Server URL, or several joined by commas.")
    ] = "nats://127.0.0.1:4222"
    user: Annotated[str, connection_option("--user", env="MQ9_USER", help_="User name.")] = ""
    password: Annotated[str, connection_option("--password", env="MQ9_PASSWORD", help_="Password.")] = ""
    token: Annotated[str, connection_option("--token", env="MQ9_TOKEN", help_="Token.")] = ""
    tls_ca: Annotated[
        str, connection_option("--tls-ca", env="MQ9_TLS_CA", help_="Certificates (PEM) to trust; turns TLS on.")
    ] = ""
    tls_cert: Annotated[str, connection_option("--tls-cert", env="MQ9_TLS_CERT", help_="Client certificate (PEM).")] = ""
    tls_key: Annotated[str, connection_option("--tls-key", env="MQ9_TLS_KEY", help_="Private key (PEM) of --tls-cert.")] = ""
    timeout: Annotated[float, connection_option("--timeout", env="MQ9_TIMEOUT", help_="Seconds each request may take.")] = 5.0
    json: Annotated[bool, typer.Option("--json", help="Answer in JSON: one object, or one a line.")] = False

    def client(self) -> Client:
        """The client of this run: `async with session.client() as client`."""
        _without_aiohttp(self.server)
        from mq9.client.client import Client  # noqa: PLC0415  # a third of the start-up time, for those that need it

        return Client(self.server, timeout_s=self.timeout, **self.connect_options())

    def connect_options(self) -> ConnectOptions:
        """These options as the client takes them."""
        return {
            "name": "mq9-cli",
            "user": self.user or None,
            "password": self.password or None,
            "token": self.token or None,
            "tls": self._tls(),
            "connect_timeout_s": self.timeout,
        }

    def _tls(self) -> ssl.SSLContext | None:
        if not (self.tls_ca or self.tls_cert):
            return None
        import ssl  # noqa: PLC0415  # most runs do without

        try:
            context = ssl.create_default_context(cafile=self.tls_ca or None)
            if self.tls_cert:
                context.load_cert_chain(self.tls_cert, self.tls_key or None)
        except (OSError, ssl.SSLError) as failure:
            raise typer.BadParameter(f"cannot use the TLS files: {failure}") from None
        return context


def _without_aiohttp(server: str) -> None:
    """nats-py imports aiohttp when it is installed, for WebSocket URLs only: 90 ms that other commands need not wait."""
    if "ws://" not in server and "wss://" not in server:
        sys.modules.setdefault("aiohttp", None)  # type: ignore[arg-type]  # None makes the import fail, as if not installed


Command = Callable[..., Coroutine[Any, Any, None] | None]


def command(app: typer.Typer, name: str, kind: type[Any] = Session) -> Callable[[Command], Command]:
    """Register a function as the command `name`: its parameters after the session, then the options of that kind of session."""

    def register(function: Command) -> Command:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        common = _common_parameters(kind)

        @wraps(function)
        def run(**values: Any) -> None:
            session = kind(**{parameter.name: values.pop(parameter.name) for parameter in common})
            with failures(as_json=session.json):
                result = function(session, **values)
                if result is not None:
                    run_async(result)

        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *common)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        app.command(name)(run)
        return function

    return register


def _common_parameters(kind: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=hints[each.name])
        for each in fields(kind)
    ]


def run_async(work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end on a fresh event loop."""
    import asyncio  # noqa: PLC0415  # 30 ms that --help and completion do not need

    asyncio.run(work)


@contextmanager
def failures(*, as_json: bool) -> Iterator[None]:
    """Say what went wrong, on standard error or as JSON, and exit with its code."""
    try:
        yield
    except Mq9Error as failure:
        output.problem(failure, as_json=as_json)
        raise typer.Exit(exits.exit_code(failure)) from None
    except KeyboardInterrupt:
        raise typer.Exit(exits.INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of our output has gone; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(exits.FAILED) from None
