"""Fetching an A2A AgentCard from the place agents publish it, `/.well-known/agent-card.json` (or `agent.json`), by URL.

A URL that somebody else wrote must not reach into our own network. So: http and https only; every address the name
resolves to must be public, or nothing is fetched; the connection goes to one of the addresses that were checked and asks
for no name again; each redirect is a new URL with the same checks, and never leads from https to http; size and time are
bounded. Plain blocking code for the command line, on the standard library alone.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, NamedTuple
from urllib.parse import urljoin, urlsplit

import msgspec

from mq9.clock import Clock
from mq9.errors import Mq9Error, error
from mq9.registry.flatten import check_depth

WELL_KNOWN: Final = ("/.well-known/agent-card.json", "/.well-known/agent.json")  # A2A 0.3 and later; 0.2
CARD_BYTES_MAX: Final = 1024 * 1024
TIMEOUT_S: Final = 10.0  # for everything together: lookups, redirects, both places
REDIRECTS_MAX: Final = 3
READ_BYTES: Final = 16 * 1024
_REDIRECTS: Final = (301, 302, 303, 307, 308)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Admits = Callable[[Address], bool]


class _Target(NamedTuple):
    """A URL taken apart, and the address that was checked for it."""

    url: str
    secure: bool
    host: str
    port: int
    path: str
    address: str


class _Budget(NamedTuple):
    """Time for the whole import."""

    clock: Clock
    deadline_s: float
    timeout_s: float

    def left_s(self, url: str) -> float:
        """Seconds left; raises UNAVAILABLE when there are none."""
        left_s = self.deadline_s - self.clock.monotonic_s()
        if left_s <= 0:
            raise error("UNAVAILABLE", reason=f"{url}: no complete answer within {self.timeout_s:g} s")
        return left_s


class _Pinned(http.client.HTTPConnection):
    """A connection to the checked address; the host is what the certificate and the Host header are about."""

    def __init__(self, target: _Target, timeout_s: float) -> None:
        super().__init__(target.host, target.port, timeout=timeout_s)
        self._target = target

    def connect(self) -> None:
        raw = socket.create_connection((self._target.address, self._target.port), self.timeout)
        if self._target.secure:
            raw = ssl.create_default_context().wrap_socket(raw, server_hostname=self._target.host)
        self.sock = raw


def is_public(address: Address) -> bool:
    """Whether an address is one of the open internet's, also when it is wrapped in an IPv6 transition form."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def fetch_card(
    url: str, clock: Clock, *, allow_private: bool = False, timeout_s: float = TIMEOUT_S, admits: Admits = is_public
) -> dict[str, Any]:
    """The AgentCard at `url` (https when no scheme is given), or at the well-known places below it.

    Raises FORBIDDEN for an address that is not public, UNAVAILABLE when nothing answers in `timeout_s`, AGENT_NOT_FOUND when
    there is no card, INVALID_REQUEST for what is none. `admits` takes the place of `is_public`; `allow_private` admits all.
    """
    if "://" not in url:
        url = f"https://{url}"
    budget = _Budget(clock, clock.monotonic_s() + timeout_s, timeout_s)
    check: Admits = (lambda _: True) if allow_private else admits
    path = urlsplit(url).path
    below = [] if path.endswith(".json") else [url.rstrip("/") + place for place in WELL_KNOWN]
    for place in [url, *below] if path.strip("/") else below:
        status, body = _get(place, check, budget)
        if status == 200 and (place == url and below and not _is_card(body)):
            continue  # a page for people; the card is where cards are
        if status == 200:
            return _card(body, place)
        if status not in (404, 410):
            raise error("UNAVAILABLE", reason=f"{place} answered {status}")
    raise error("AGENT_NOT_FOUND")


def registration_of(card: dict[str, Any], url: str) -> dict[str, Any]:
    """A REGISTER body for an imported card."""
    return {"name": card["name"], "agent_card": card, "source_url": url}


def _get(url: str, admits: Admits, budget: _Budget) -> tuple[int, bytes]:
    """Status and body of a GET, redirects followed."""
    for _ in range(REDIRECTS_MAX + 1):
        target = _check(url, admits)
        status, location, body = _request(target, budget)
        if status not in _REDIRECTS or not location:
            return status, body
        following = urljoin(url, location)
        if target.secure and urlsplit(following).scheme != "https":
            raise error("FORBIDDEN", reason=f"{url} leads from https to {following}")
        url = following
    raise error("UNAVAILABLE", reason=f"more than {REDIRECTS_MAX} redirects")


def _check(url: str, admits: Admits) -> _Target:
    """Take a URL apart and resolve its host. All its addresses must be admitted: which one is used is not ours to hope."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as failure:
        raise error("INVALID_REQUEST", reason=f"not a URL: {failure}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise error("INVALID_REQUEST", reason=f"not an http or https URL: {url}")
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as failure:
        raise error("UNAVAILABLE", reason=f"{parts.hostname} cannot be resolved: {failure}") from None
    addresses = [str(each[4][0]) for each in found]
    for address in addresses:
        if not admits(ipaddress.ip_address(address.partition("%")[0])):
            raise error("FORBIDDEN", reason=f"{parts.hostname} is at {address}, which is not a public address")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Target(url, parts.scheme == "https", parts.hostname, port, path, addresses[0])


def _request(target: _Target, budget: _Budget) -> tuple[int, str, bytes]:
    """Status, Location and body. A socket's timeout is for one step, so the deadline is looked at after each."""
    connection = _Pinned(target, budget.left_s(target.url))
    try:
        connection.request("GET", target.path, headers={"Accept": "application/json", "User-Agent": "mq9"})
        response = connection.getresponse()
        body = bytearray()
        while chunk := response.read1(READ_BYTES):
            body += chunk
            if len(body) > CARD_BYTES_MAX:
                raise error("PAYLOAD_TOO_LARGE", size=len(body), limit=CARD_BYTES_MAX)
            left_s = budget.left_s(target.url)
            if connection.sock is not None:  # it is gone once the last byte of a closing answer is here
                connection.sock.settimeout(left_s)
        return response.status, response.getheader("Location") or "", bytes(body)
    except (OSError, http.client.HTTPException, ValueError) as failure:
        raise error("UNAVAILABLE", reason=f"{target.url}: {type(failure).__name__} {failure}") from None
    finally:
        connection.close()


def _is_card(body: bytes) -> bool:
    return body.lstrip()[:1] == b"{"


def _card(body: bytes, url: str) -> dict[str, Any]:
    try:
        card = msgspec.json.decode(body)
        check_depth(card)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, Mq9Error) as failure:
        raise error("INVALID_REQUEST", reason=f"{url} is not JSON: {failure}") from None
    if not isinstance(card, dict) or not isinstance(card.get("name"), str) or not card["name"].strip():
        raise error("INVALID_REQUEST", reason=f"{url} is not an AgentCard: it has no name")
    return card
