"""The official browser clients, both generations, in a real headless browser, over ws:// and wss://."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlencode

import pytest
from aiohttp import web

from tests.conftest import MakeServer
from tests.interop.programs import Program, prepare
from tests.support.certificates import Authority

CHECKS = ["connect", "pubsub", "large", "request", "no_responders", "mailbox", "push", "agents", "drain"]
RUN_TIMEOUT_S = 90
# As root a browser has no sandbox to begin with; the rest keeps it from looking for the world outside.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--ignore-certificate-errors",
)
BUNDLE = ("node_modules/.bin/esbuild", "page.mjs", "--bundle", "--format=esm", "--external:crypto", "--outfile={build}/page.js")
PAGE = Program(
    "browser clients",
    "browser",
    ("node", "npm", "chromium"),
    (("npm", "ci", "--loglevel=error", "--ignore-scripts", "--no-audit", "--no-fund"),),
    (BUNDLE,),
    ("{build}/page.js",),
)

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]


async def _run_page(script: str, query: dict[str, str]) -> str:
    """Serve the page, open it in a browser, and wait for what it posts back."""
    result: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def page(request: web.Request) -> web.Response:
        return web.Response(text='<!doctype html><script type="module" src="/page.js"></script>', content_type="text/html")

    async def code(request: web.Request) -> web.Response:
        return web.Response(text=script, content_type="text/javascript")

    async def posted(request: web.Request) -> web.Response:
        result.set_result(await request.text())
        return web.Response()

    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/page.js", code), web.post("/result", posted)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    profile = tempfile.mkdtemp(prefix="mq9-browser-")
    browser = await asyncio.create_subprocess_exec(
        shutil.which("chromium") or "chromium",
        *FLAGS,
        f"--user-data-dir={profile}",
        f"http://127.0.0.1:{runner.addresses[0][1]}/?{urlencode(query)}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        return await asyncio.wait_for(result, RUN_TIMEOUT_S)
    finally:
        browser.kill()
        await browser.wait()
        await runner.cleanup()
        shutil.rmtree(profile, ignore_errors=True)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("client", ["nats-core", "nats.ws"])
def test_a_page_uses_the_broker(client: str, scheme: str, start_server: MakeServer, tmp_path: Path) -> None:
    script = Path(prepare(PAGE)[0])
    settings = {}
    if scheme == "wss":
        pair = Authority(tmp_path, "authority").issue("server")
        settings = {"tls_cert": str(pair.cert), "tls_key": str(pair.key)}
    server = start_server(ws_port=0, **settings)
    assert server.websocket_url is not None
    prefix = f"browser.{client.replace('.', '').replace('-', '')}"
    printed = asyncio.run(_run_page(script.read_text(), {"url": server.websocket_url, "client": client, "prefix": prefix}))
    assert printed.splitlines() == [f"ok {name}" for name in CHECKS]
