"""Vectors from an OpenAI-compatible HTTP service (`POST URL/embeddings`).

Used from the registry's own threads, so it simply blocks: one connection a thread, kept open, one deadline for the whole
request. Everything that can go wrong (no route, TLS, a status, a body that is no such answer, too much of it, too slow)
is an EmbeddingFailed. Redirects are not followed: the token goes to the host the operator named and to no other.
"""

from __future__ import annotations

import http.client
import threading
from typing import Final
from urllib.parse import urlsplit

import msgspec
import numpy as np

from mq9.clock import Clock
from mq9.registry.embedding import EmbeddingFailed, Vectors, unit

ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024  # 64 texts of 4,096 dimensions as decimal text are about 6 MB
COMPONENT_MAX: Final = 1e18  # its square is still a float32; infinite and NaN fail this test too
READ_BYTES: Final = 64 * 1024
BATCH_TEXTS_MAX: Final = 64
TEXT_CHARS_MAX: Final = 8_000  # services refuse whole batches for one text over their token limit (about 8,000 tokens)


class _Item(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Answer(msgspec.Struct):
    data: list[_Item]


class HttpEmbedding:
    """One service and one model of it."""

    def __init__(self, url: str, model: str, key: str, timeout_s: float, clock: Clock) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http(s) address: {url!r}")
        self.model_id = f"http:{parts.netloc.rpartition('@')[2]}{parts.path}:{model}"
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port
        self._path = parts.path.rstrip("/") + "/embeddings"
        self._model = model
        self._key = key
        self._timeout_s = timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._connections: dict[int, http.client.HTTPConnection] = {}  # by thread

    def embed(self, texts: list[str], *, query: bool = False) -> Vectors:
        blocks = [self._request(texts[start : start + BATCH_TEXTS_MAX]) for start in range(0, len(texts), BATCH_TEXTS_MAX)]
        return np.concatenate(blocks) if blocks else np.zeros((0, 1), np.float32)

    def _request(self, texts: list[str]) -> Vectors:
        body = msgspec.json.encode({"model": self._model, "input": [text[:TEXT_CHARS_MAX] or " " for text in texts]})
        try:
            answer = self._exchange(body)
            rows = sorted(msgspec.json.decode(answer, type=_Answer).data, key=lambda item: item.index)
            wide = np.asarray([row.embedding for row in rows], np.float64)
        except (OSError, http.client.HTTPException, msgspec.MsgspecError, UnicodeError, ValueError) as failure:
            self._drop()
            raise EmbeddingFailed(f"{self._host}: {type(failure).__name__} {failure}") from failure
        if wide.ndim != 2 or len(wide) != len(texts) or not wide.shape[1] or not (np.abs(wide) < COMPONENT_MAX).all():
            raise EmbeddingFailed(f"{self._host} answered {wide.shape} for {len(texts)} texts")
        return unit(wide.astype(np.float32))

    def _exchange(self, body: bytes) -> bytes:
        deadline_s = self._clock.monotonic_s() + self._timeout_s
        connection = self._connection()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            connection.request("POST", self._path, body, headers)
        except (http.client.HTTPException, ConnectionError):
            # A kept connection may have been closed by the service meanwhile; a fresh one tells whether it is there.
            self._drop()
            connection = self._connection()
            connection.request("POST", self._path, body, headers)
        return self._read(connection, deadline_s)

    def _read(self, connection: http.client.HTTPConnection, deadline_s: float) -> bytes:
        """The body of a 200 answer. A socket's timeout restarts with every byte, so the deadline is looked at as well."""
        response = connection.getresponse()
        chunks: list[bytes] = []
        size = 0
        while chunk := response.read1(READ_BYTES):
            chunks.append(chunk)
            size += len(chunk)
            if size > ANSWER_BYTES_MAX:
                raise ValueError(f"the answer is larger than {ANSWER_BYTES_MAX} bytes")
            if self._clock.monotonic_s() > deadline_s:
                raise TimeoutError(f"no complete answer within {self._timeout_s:g} s")
        response.close()  # it is read to its end, but does not know; the connection could not be used again
        if response.status != 200:
            raise ValueError(f"status {response.status}: {b''.join(chunks)[:200].decode(errors='replace')}")
        return b"".join(chunks)

    def close(self) -> None:
        """Close the connections; when both threads are done."""
        with self._lock:
            for connection in self._connections.values():
                connection.close()
            self._connections.clear()

    def _connection(self) -> http.client.HTTPConnection:
        thread = threading.get_ident()
        with self._lock:
            connection = self._connections.get(thread)
            if connection is None:
                kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
                connection = kind(self._host, self._port, timeout=self._timeout_s)
                self._connections[thread] = connection
            return connection

    def _drop(self) -> None:
        with self._lock:
            connection = self._connections.pop(threading.get_ident(), None)
        if connection is not None:
            connection.close()
