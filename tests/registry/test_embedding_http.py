"""The OpenAI-compatible provider against real HTTP servers that behave, misbehave, and hang."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager

import numpy as np
import pytest
from aiohttp import web

from mq9.clock import SystemClock
from mq9.registry.embedding import EmbeddingFailed
from mq9.registry.embedding_http import HttpEmbedding
from tests.registry.conftest import MakeNode
from tests.registry.http_service import pause, serving
from tests.registry.node import Words


def service(port: int, timeout_s: float = 5.0, key: str = "") -> HttpEmbedding:
    """For a registry, which closes it."""
    return HttpEmbedding(f"http://127.0.0.1:{port}/v1", "model-a", key, timeout_s, SystemClock())


@contextmanager
def provider(port: int, timeout_s: float = 5.0, key: str = "") -> Iterator[HttpEmbedding]:
    with closing(service(port, timeout_s, key)) as made:
        yield made


def good(dimensions: int = 4) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Vectors that count letters; in reverse order, as services may."""

    async def answer(request: web.Request) -> web.Response:
        texts = (await request.json())["input"]
        data = [
            {"index": at, "embedding": [float(text.count(chr(97 + d)) + 1) for d in range(dimensions)]}
            for at, text in enumerate(texts)
        ]
        return web.json_response({"data": data[::-1], "model": "model-a"})

    return answer


def test_vectors_come_in_the_order_of_the_texts() -> None:
    with serving(good()) as port, provider(port) as model:
        vectors = model.embed(["aaaa", "bbbb"])
    assert vectors.shape == (2, 4)
    assert vectors[0].argmax() == 0
    assert vectors[1].argmax() == 1
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)


def test_what_is_sent() -> None:
    seen: list[tuple[str, str, dict[str, object]]] = []

    async def note(request: web.Request) -> web.StreamResponse:
        seen.append((request.path, request.headers.get("Authorization", ""), json.loads(await request.text())))
        return await good()(request)

    with serving(note) as port, provider(port, key="secret") as model:
        model.embed(["x"] * 100)
    assert [len(body["input"]) for _, _, body in seen] == [64, 36]  # type: ignore[arg-type]
    assert seen[0][:2] == ("/v1/embeddings", "Bearer secret")
    assert "secret" not in model.model_id


BAD = {
    "a status": web.Response(status=503, text="busy"),
    "no JSON": web.Response(text="hello"),
    "another shape": web.json_response({"data": [{"embedding": "x"}]}),
    "too few": web.json_response({"data": []}),
    "not numbers": web.json_response({"data": [{"index": 0, "embedding": [1e39, 1.0]}]}),
    "a redirect": web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_answers_are_failures(case: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        bad = BAD[case]
        return web.Response(status=bad.status, text=bad.text, headers={k: v for k, v in bad.headers.items() if k == "Location"})

    with serving(answer) as port, provider(port) as model, pytest.raises(EmbeddingFailed):
        model.embed(["a"])


def test_nobody_there_is_a_failure() -> None:
    with serving(good()) as port:
        pass
    with provider(port) as model, pytest.raises(EmbeddingFailed):
        model.embed(["a"])


def test_a_service_that_never_answers_is_given_up() -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        await pause(request, 60)
        return web.Response()

    expected = pytest.raises(EmbeddingFailed, match=r"TimeoutError|timed out")
    with serving(hang) as port, provider(port, timeout_s=0.2) as model, expected:
        model.embed(["a"])


def test_a_service_that_drips_is_given_up() -> None:
    """Each byte comes before the socket's timeout; the whole does not come before the deadline."""

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while await pause(request, 0.02):
            await response.write(b" ")
        return response

    expected = pytest.raises(EmbeddingFailed, match="no complete answer")
    with serving(drip) as port, provider(port, timeout_s=0.3) as model, expected:
        model.embed(["a"])


def test_a_closed_connection_is_opened_again() -> None:
    async def once(request: web.Request) -> web.StreamResponse:
        response = await good()(request)
        response.force_close()
        return response

    with serving(once) as port, provider(port) as model:
        for _ in range(3):
            assert model.embed(["a"]).shape == (1, 4)


@pytest.mark.parametrize("url", ["", "ftp://x/v1", "localhost:80"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="not an http"):
        HttpEmbedding(url, "m", "", 1.0, SystemClock())


def test_agents_are_found_by_a_services_vectors_and_by_the_stand_in_without_it(make_node: MakeNode) -> None:
    with serving(good(26)) as port:
        node = make_node(service(port))
        node.fallback = Words()
        node.register("letters", description="zzzz")
        node.register("others", description="eeee")
        assert node.names(semantic="zzzzzz", mode="semantic")[0] == "letters"
        assert node.discover(semantic="zzzzzz")["mode"] == "hybrid"
    reply = node.discover(semantic="eeee other")  # the service is gone: keywords at once
    assert reply["agents"][0]["name"] == "others"
    node.run_until_indexed()
    assert node.discover(semantic="eeee nothing")["mode"] == "hybrid"  # the stand-in has embedded everybody meanwhile


def test_a_service_that_changes_its_dimensions_is_followed(make_node: MakeNode) -> None:
    with serving(good(8)) as port:
        first = service(port)
        node = make_node(first)
        node.register("letters", description="zzzz")
        node.register("others", description="aaaa")
        assert node.discover(semantic="aaaa", mode="semantic")["mode"] == "semantic"
    with serving(good(12)) as port:
        second = service(port)
        second.model_id = first.model_id  # the same name
        node.provider = second
        node.restart()
        node.run_until_indexed()
        assert node.discover(semantic="aaa a", mode="semantic")["mode"] == "keyword"  # learns of it
        node.run_until_indexed()
        assert node.discover(semantic="aa aa", mode="semantic")["mode"] == "semantic"
        node.register("third", description="bbbb")
        assert len(node.names(semantic="a a", mode="semantic")) == 3
