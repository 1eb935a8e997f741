"""The certificates of a broker in a cluster: reading ours, and whether those of others name their hosts."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import grpc

from mq9.errors import error
from mq9.settings import Settings


def read_tls(settings: Settings) -> tuple[bytes, bytes, bytes] | None:
    """CA, key and certificate. Raises INVALID_REQUEST naming the file that cannot be read."""
    if not settings.cluster_tls_cert:
        return None
    try:
        ca, key, certificate = (
            Path(path).read_bytes() for path in (settings.cluster_tls_ca, settings.cluster_tls_key, settings.cluster_tls_cert)
        )
    except OSError as failure:
        raise error("INVALID_REQUEST", reason=f"--cluster-tls-cert, -key and -ca: {failure}") from failure
    return ca, key, certificate


def names_host(context: grpc.aio.ServicerContext, host: str) -> bool:
    """Whether the certificate at the other end names this host, as a name or as an address."""
    names = [name.decode() for name in context.auth_context().get("x509_subject_alternative_name", ())]
    try:
        wanted = ipaddress.ip_address(host)
    except ValueError:
        return any(_matches(name.lower(), host.lower()) for name in names)
    return any(_address(name) == wanted for name in names)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _matches(pattern: str, host: str) -> bool:
    """A certificate's name, whose first label may be `*`."""
    return pattern == host or (pattern.startswith("*.") and host.partition(".")[2] == pattern[2:])
