"""Registries for tests: on LMDB and in memory, with a model made of words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mq9.registry.embedding import EmbeddingProvider
from tests.registry.node import Node, Words, lmdb_opener, memory_opener

MakeNode = Callable[..., Node]


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[MakeNode]:
    """make_node(provider, store="memory", **settings) -> a started Node; closed when the test ends."""
    made: list[Node] = []

    def make(provider: EmbeddingProvider | None, store: str = "memory", **settings: Any) -> Node:
        opener = memory_opener() if store == "memory" else lmdb_opener(tmp_path / f"node{len(made)}")
        made.append(Node(opener, provider, **settings))
        return made[-1]

    yield make
    for node in made:
        node.stop()


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture(params=["memory", "lmdb"])
def node(request: pytest.FixtureRequest, make_node: MakeNode, words: Words) -> Node:
    """A registry on each kind of store."""
    return make_node(words, store=request.param)
