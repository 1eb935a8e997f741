"""What every command that talks to the meta service has in common: where it is, how to be let in, and `--json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mq9.cli.command import PANEL, connection_option

if TYPE_CHECKING:
    from mq9.meta.client import MetaClient

DEFAULT_ADDRESS: Final = "127.0.0.1:9323"


def _path(name: str, help_: str) -> Any:
    return connection_option(name, env=f"MQ9_{name[2:].replace('-', '_').upper()}", help_=help_)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSession:
    """The options of one run. Every field is an option of every such command."""

    meta: Annotated[
        str, connection_option("--meta", env="MQ9_META", help_="APIs of the meta service: host:port, comma-separated.")
    ] = ""
    data_dir: Annotated[
        str, connection_option("--data-dir", env="MQ9_CLUSTER_DIR", help_="Directory of a cluster that `mq9 cluster up` runs.")
    ] = ""
    cluster_token: Annotated[
        str, connection_option("--cluster-token", env="MQ9_CLUSTER_TOKEN", help_="Token of the meta service.")
    ] = ""
    cluster_tls_ca: Annotated[str, _path("--cluster-tls-ca", "Certificates (PEM) to trust; turns TLS on.")] = ""
    cluster_tls_cert: Annotated[str, _path("--cluster-tls-cert", "Client certificate (PEM).")] = ""
    cluster_tls_key: Annotated[str, _path("--cluster-tls-key", "Private key (PEM) of --cluster-tls-cert.")] = ""
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds each request may take.", rich_help_panel=PANEL, min=0.1)
    ] = 10.0
    json: Annotated[bool, typer.Option("--json", help="Answer in JSON: one object, or one a line.")] = False

    def addresses(self) -> list[str]:
        """Where the meta service is: as said, else as the directory says, else on this machine."""
        if self.meta or not self.data_dir:
            return [each.strip() for each in (self.meta or DEFAULT_ADDRESS).split(",") if each.strip()]
        from mq9.cli.cluster_files import load  # noqa: PLC0415  # most sessions have no directory

        return load(Path(self.data_dir)).meta_addresses

    def client(self) -> MetaClient:
        """A client of the meta service: `async with session.client() as client`."""
        from mq9.meta.client import Access, MetaClient  # noqa: PLC0415  # gRPC is most of the start-up time

        token = self.cluster_token
        if not token and self.data_dir and not self.meta:
            from mq9.cli.cluster_files import load  # noqa: PLC0415  # see above

            token = load(Path(self.data_dir)).secret("token")
        try:
            ca, key, cert = (
                Path(path).read_bytes() if path else None
                for path in (self.cluster_tls_ca, self.cluster_tls_key, self.cluster_tls_cert)
            )
        except OSError as failure:
            raise typer.BadParameter(f"cannot read the TLS files: {failure}") from None
        return MetaClient(self.addresses(), Access(token, ca, key, cert), deadline_s=self.timeout)
