"""The models themselves, and which of them is in use."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from mq9.registry.embedder import REMEMBERED_TEXTS, RETRY_S_MIN, Embedder
from mq9.registry.embedding import MINILM_DIMENSIONS, Blend, EmbeddingFailed, MiniLm, Vectors, WordLlama
from mq9.registry.providers import make_embedder
from mq9.settings import Settings
from tests.registry.node import HandClock, Words


@pytest.fixture(scope="module")
def minilm() -> MiniLm:
    return MiniLm(threads=1)


def test_minilm_knows_what_is_near(minilm: MiniLm) -> None:
    texts = ["a cat sleeps on the sofa", "a kitten naps on the couch", "quarterly revenue of the company"]
    vectors = minilm.embed(texts)
    assert vectors.shape == (3, MINILM_DIMENSIONS)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.6
    assert vectors[0] @ vectors[2] < 0.2


def test_minilm_gives_a_text_the_same_vector_in_any_company(minilm: MiniLm) -> None:
    texts = ["short", "a somewhat longer text about ships and the sea", "", "word " * 1000]
    together = minilm.embed(texts * 9)
    alone = np.concatenate([minilm.embed([text]) for text in texts])
    assert np.allclose(together[:4], alone, atol=2e-3)
    assert np.isfinite(together).all()
    assert minilm.embed([]).shape == (0, MINILM_DIMENSIONS)


def test_wordllama_and_blend_when_installed(minilm: MiniLm) -> None:
    pytest.importorskip("wordllama")
    light = WordLlama()
    vectors = light.embed(["a cat", "", "a kitten"])
    assert np.isfinite(vectors).all()
    both = Blend(minilm, light).embed(["a cat", "a kitten"])
    expected = 0.7 * (minilm.embed(["a cat"]) @ minilm.embed(["a kitten"]).T) + 0.3 * vectors[0] @ vectors[2]
    assert abs(float(both[0] @ both[1]) - float(expected)) < 1e-3


def test_a_model_that_is_not_installed_is_a_failure_not_a_crash() -> None:
    if importlib.util.find_spec("wordllama") is not None:
        pytest.skip("wordllama is installed")
    with pytest.raises(EmbeddingFailed, match="not installed"):
        WordLlama().embed(["a"])


@pytest.mark.parametrize(
    ("choice", "model"),
    [("minilm", "all-minilm"), ("wordllama", "wordllama"), ("blend", "all-minilm-l6-v2/1+0.3*wordllama"), ("http", "all-minilm")],
)
def test_settings_choose_the_model(choice: str, model: str) -> None:
    embedder = make_embedder(Settings(embedding=choice), HandClock())
    assert embedder is not None
    assert embedder.model_id.startswith(model)


def test_settings_choose_no_model() -> None:
    assert make_embedder(Settings(embedding="none"), HandClock()) is None


def test_texts_are_embedded_once() -> None:
    model = Words()
    embedder = Embedder(model, None, HandClock())
    first = embedder.embed(["a", "b", "a"])
    again = embedder.embed(["b", "a", "b"])
    assert model.texts == ["a", "b"]
    assert np.array_equal(first.vectors[0], again.vectors[1])
    assert first.space == "words/64"
    embedder.embed([f"text {n}" for n in range(REMEMBERED_TEXTS)])
    embedder.embed(["a"])
    assert model.texts.count("a") == 2  # the memory is bounded


def test_the_stand_in_takes_over_and_gives_back() -> None:
    main, other, clock = Words(), Words(dimensions=8, name="other"), HandClock()
    embedder = Embedder(main, other, clock)
    main.broken = True
    assert embedder.embed(["a"]).space == "other/8"
    assert embedder.failing
    main.broken = False
    embedder.probe()
    assert embedder.failing, "not before its time"
    assert embedder.embed(["a"]).space == "other/8"
    clock.advance(RETRY_S_MIN + 1)
    embedder.probe()
    assert embedder.embed(["a"]).space == "words/64"


def test_retries_of_a_failing_provider_become_rare() -> None:
    main, clock = Words(), HandClock()
    embedder = Embedder(main, None, clock)
    main.broken = True
    for _ in range(3):
        with pytest.raises(EmbeddingFailed):
            embedder.embed(["a"])
    waits = []
    for _ in range(7):
        start_ms = clock.now_ms
        before = embedder._retry_at_s
        clock.advance(before - clock.monotonic_s() + 0.001)
        embedder.probe()
        waits.append(clock.now_ms - start_ms)
    assert waits == sorted(waits)
    assert waits[-1] <= 601_000


def test_a_failing_provider_is_left_alone_until_its_time() -> None:
    main, clock = Words(), HandClock()
    calls: list[int] = []

    class Counting(Words):
        def embed(self, texts: list[str], *, query: bool = False) -> Vectors:
            calls.append(1)
            return main.embed(texts, query=query)

    embedder = Embedder(Counting(), None, clock)
    main.broken = True
    for _ in range(10):
        with pytest.raises(EmbeddingFailed):
            embedder.embed(["a"], query=True)
    assert len(calls) == 1
    main.broken = False
    clock.advance(RETRY_S_MIN + 1)
    assert embedder.embed(["a"]).space == "words/64"
