"""Importing a card from a URL, and what a URL must not reach."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from mq9.clock import SystemClock
from mq9.errors import Forbidden, Mq9Error, NotFound
from mq9.registry.a2a_import import CARD_BYTES_MAX, TIMEOUT_S, Address, fetch_card, is_public, registration_of
from mq9.registry.requests import parse_agent
from tests.registry.http_service import pause, serving

CARD = {"name": "Geo", "description": "maps", "skills": []}
CLOCK = SystemClock()
EVERYWHERE = str(ipaddress.IPv4Address(0))  # to connect to, it means this machine


def site(files: dict[str, str]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Answers of paths: a text, or the Location of a redirect."""

    async def answer(request: web.Request) -> web.StreamResponse:
        found = files.get(request.path)
        if found is None:
            return web.Response(status=404)
        if found.startswith("->"):
            return web.Response(status=302, headers={"Location": found[2:]})
        return web.Response(text=found)

    return answer


@pytest.mark.parametrize("place", ["/.well-known/agent-card.json", "/.well-known/agent.json"])
def test_the_well_known_places(place: str) -> None:
    with serving(site({place: json.dumps(CARD)})) as port:
        card = fetch_card(f"http://127.0.0.1:{port}/", CLOCK, allow_private=True)
    assert card == CARD
    body = parse_agent(json.dumps(registration_of(card, "u")).encode())
    assert body.name == "Geo"


def test_a_file_a_path_and_a_place_below_a_page() -> None:
    text = json.dumps(CARD)
    files = {"/cards/geo.json": text, "/geo/.well-known/agent-card.json": text, "/card": text, "/page": "<html>"}
    files["/page/.well-known/agent.json"] = text
    with serving(site(files)) as port:
        for path in ("cards/geo.json", "geo", "card", "page"):
            assert fetch_card(f"http://127.0.0.1:{port}/{path}", CLOCK, allow_private=True) == CARD


PRIVATE = f"""
    127.0.0.1 10.0.0.1 172.16.5.5 192.168.1.1 169.254.169.254 100.64.0.1 {EVERYWHERE} 224.0.0.1 255.255.255.255
    ::1 fe80::1 fd00::1 ff02::1 :: ::ffff:10.0.0.1 ::ffff:127.0.0.1 2002:7f00:1:: 64:ff9b::a00:1
    2001:0:4136:e378:8000:63bf:f5ff:fffe
"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808"])
def test_addresses_that_are(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", EVERYWHERE, "2130706433", "127.1", "[::ffff:127.0.0.1]"])
def test_private_hosts_are_refused_in_every_spelling(host: str) -> None:
    with pytest.raises(Forbidden, match="not a public address"):
        fetch_card(f"http://{host}:9/agent.json", CLOCK)


def first_only(address: Address) -> bool:
    """Stands for "public": this machine has no other address to show a redirect with."""
    return str(address) == "127.0.0.1"


def test_a_redirect_is_followed_and_checked_like_the_first() -> None:
    with serving(site({"/inside.json": json.dumps(CARD)}), host="127.0.0.2") as hidden:
        files = {
            "/good.json": "->/moved.json",
            "/moved.json": json.dumps(CARD),
            "/bad.json": f"->http://127.0.0.2:{hidden}/inside.json",
            "/loop.json": "->/loop.json",
            "/scheme.json": "->file:///etc/passwd",
        }
        with serving(site(files)) as port:
            base = f"http://127.0.0.1:{port}"
            assert fetch_card(f"{base}/good.json", CLOCK, admits=first_only) == CARD
            assert fetch_card(f"{base}/bad.json", CLOCK, allow_private=True) == CARD  # it is there to be reached
            with pytest.raises(Forbidden, match=r"127\.0\.0\.2"):
                fetch_card(f"{base}/bad.json", CLOCK, admits=first_only)
            with pytest.raises(Mq9Error, match="redirects"):
                fetch_card(f"{base}/loop.json", CLOCK, admits=first_only)
            with pytest.raises(Mq9Error, match="not an http"):
                fetch_card(f"{base}/scheme.json", CLOCK, admits=first_only)


@pytest.mark.parametrize(
    "url", ["", "ftp://x/agent.json", "http:///agent.json", "http://user:pw@x/agent.json", "http://x:99999/a.json"]
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(Mq9Error, match="invalid request"):
        fetch_card(url, CLOCK)


@pytest.mark.parametrize(
    "text", ["", "hello", "[]", "{}", '{"name": 5}', '{"name": " "}', '{"name":"x","a":' + "[" * 100 + "]" * 100 + "}"]
)
def test_what_is_no_card(text: str) -> None:
    with serving(site({"/a.json": text})) as port, pytest.raises(Mq9Error, match="invalid request"):
        fetch_card(f"http://127.0.0.1:{port}/a.json", CLOCK, allow_private=True)


def test_a_card_that_is_too_large() -> None:
    with serving(site({"/a.json": "x" * (CARD_BYTES_MAX + 1)})) as port, pytest.raises(Mq9Error, match="too large"):
        fetch_card(f"http://127.0.0.1:{port}/a.json", CLOCK, allow_private=True)


def test_nobody_there_and_nothing_there() -> None:
    with serving(site({})) as port, pytest.raises(NotFound):
        fetch_card(f"http://127.0.0.1:{port}", CLOCK, allow_private=True)
    with pytest.raises(Mq9Error, match="ConnectionRefused"):
        fetch_card(f"http://127.0.0.1:{port}", CLOCK, allow_private=True)


class FastClock(SystemClock):
    """A clock of which a second passes with every look."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    def monotonic_s(self) -> float:
        self.looks += 1
        return super().monotonic_s() + self.looks


def test_a_server_that_drips_runs_out_of_time() -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while await pause(request, 0.01):
            await response.write(b" ")
        return response

    clock = FastClock()
    with serving(drip) as port, pytest.raises(Mq9Error, match="no complete answer"):
        fetch_card(f"http://127.0.0.1:{port}/a.json", clock, allow_private=True)
    assert clock.looks <= TIMEOUT_S + 3
