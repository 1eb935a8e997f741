"""The TLS side of a listener: one context from the settings."""

from __future__ import annotations

import ssl

from mq9.errors import error
from mq9.settings import Settings


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """The context that clients are upgraded with, or None when TLS is off.

    TLS 1.2 or newer. With `tls_verify` a client must show a certificate signed by `tls_ca`; without it one is not asked
    for. Raises INVALID_REQUEST for settings that contradict each other and for files that cannot be used.
    """
    if not settings.tls_cert:
        if settings.tls_key or settings.tls_ca or settings.tls_verify:
            raise error("INVALID_REQUEST", reason="--tls-key, --tls-ca and --tls-verify need --tls-cert")
        return None
    if settings.tls_verify and not settings.tls_ca:
        # An empty list of authorities would accept nobody; the system's would accept half the world.
        raise error("INVALID_REQUEST", reason="--tls-verify needs --tls-ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key or None)
    except OSError as failure:  # ssl.SSLError is one; neither names the file
        raise error("INVALID_REQUEST", reason=f"--tls-cert {settings.tls_cert} with its key: {failure}") from failure
    if settings.tls_ca:
        try:
            context.load_verify_locations(settings.tls_ca)
        except OSError as failure:
            raise error("INVALID_REQUEST", reason=f"--tls-ca {settings.tls_ca}: {failure}") from failure
    if settings.tls_verify:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
