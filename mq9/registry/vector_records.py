"""The vectors of an agent as they are stored: half precision, with the digest of the text each was made from.

The digests say what may be used again: after a restart everything, after an upsert the vectors of the texts that stayed.
Vectors of the model in use and of one more are kept, so going back from a stand-in embeds nothing twice.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec
import numpy as np

from mq9.errors import error
from mq9.registry.embedding import Vectors
from mq9.registry.records import decode, pack

SPACES_KEPT: Final = 2
_DIGEST_BYTES: Final = 8  # of at most 32 texts of one agent


class SpaceVectors(msgspec.Struct, array_like=True, frozen=True):
    """Vectors of one space: little-endian half precision, row after row."""

    space: str
    dimensions: int
    digests: tuple[bytes, ...]
    data: bytes

    @classmethod
    def of(cls, space: str, digests: tuple[bytes, ...], vectors: Vectors) -> SpaceVectors:
        return cls(space, vectors.shape[1], digests, vectors.astype("<f2").tobytes())

    def vectors(self) -> Vectors:
        """The rows again, as float32."""
        return np.frombuffer(self.data, "<f2").astype(np.float32).reshape(len(self.digests), self.dimensions)


class VectorRecord(msgspec.Struct, array_like=True, frozen=True):
    """All vectors of an agent, the newest space first."""

    spaces: tuple[SpaceVectors, ...]

    def in_space(self, model_id: str) -> SpaceVectors | None:
        """The vectors made by a model, whatever their dimensions."""
        return next((each for each in self.spaces if each.space.rpartition("/")[0] == model_id), None)

    def with_space(self, new: SpaceVectors) -> VectorRecord:
        """This record with `new` in front and the oldest spaces dropped."""
        return VectorRecord((new, *(each for each in self.spaces if each.space != new.space))[:SPACES_KEPT])


_decoder: Final = msgspec.msgpack.Decoder(VectorRecord)


def digest(text: str) -> bytes:
    """What tells one text of an agent from another."""
    return blake2b(text.encode("utf-8", "replace"), digest_size=_DIGEST_BYTES).digest()


def pack_vectors(key: bytes, record: VectorRecord) -> bytes:
    """The sealed AGENT_VECTOR row."""
    return pack(key, record)


def unpack_vectors(key: bytes, value: bytes) -> VectorRecord:
    """The inverse of `pack_vectors`; raises DATA_DAMAGED."""
    record = decode(_decoder, key, value)
    for each in record.spaces:
        if len(each.data) != 2 * each.dimensions * len(each.digests):
            raise error("DATA_DAMAGED", reason=f"vectors {key.hex()} have the wrong length")
    return record
