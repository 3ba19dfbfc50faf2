"""The form of an image: what lies where, and how its head is written and read.

    bytes 0..8    GTIMAGE1
    8..16         uint64, little-endian: length of the index
    16..48        blake3 of the index
    48..          the index, JSON; then zeroes to the next large page, where the first storage begins

A storage is what tensors lie in, whole: parameters that share one keep sharing it. Those that a sleep frees come first and
make one run, in the order of the model, so that one copy brings them all back; the rest (buffers) follows.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from .memory import HUGE_PAGE_BYTES, PAGE_BYTES, align_up

MAGIC = b"GTIMAGE1"
_HEAD = struct.Struct("<8sQ32s")
HASH_BYTES = 32
INDEX_BYTES_MAX = 256 * 1024 * 1024
# Of a storage's start: what vector loads and copies to a GPU like. Not a page's: gaps would be copied at every wake.
ALIGNMENT_BYTES = 256


class ImageError(ValueError):
    """This file is not an image, or not a whole one."""


@dataclass(frozen=True)
class TensorPlace:
    """One tensor inside a storage; `stride` and `storage_offset` in elements."""

    name: str
    kind: str  # parameter | buffer
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    storage_offset: int


@dataclass(frozen=True)
class StoragePlace:
    offset: int  # from the first storage
    bytes: int
    blake3: str
    tensors: tuple[TensorPlace, ...]

    @property
    def frees(self) -> bool:
        """Whether a sleep frees it: buffers may change, so they stay."""
        return all(tensor.kind == "parameter" for tensor in self.tensors)


@dataclass(frozen=True)
class Layout:
    """`data_bytes` from the first storage to the end of the file, `run_bytes` of them are what a sleep frees."""

    storages: tuple[StoragePlace, ...]
    run_bytes: int
    data_bytes: int

    def fingerprint_text(self) -> str:
        """Two engines whose texts are equal can share an image."""
        return json.dumps([(s.offset, s.bytes, [asdict(t) for t in s.tensors]) for s in self.storages])


def plan(storages: Iterable[tuple[int, tuple[TensorPlace, ...]]]) -> Layout:
    """@param storages bytes and tensors of each, in the model's order"""
    unplaced = [StoragePlace(0, size, "", tensors) for size, tensors in storages]
    placed: list[StoragePlace] = []
    end = run_end = 0
    for frees in (True, False):
        for storage in unplaced:
            if storage.frees is not frees:
                continue
            offset = align_up(end, ALIGNMENT_BYTES)
            placed.append(StoragePlace(offset, storage.bytes, "", storage.tensors))
            end = offset + storage.bytes
        if frees:
            run_end = align_up(end, PAGE_BYTES)
            end = align_up(end, HUGE_PAGE_BYTES)
    return Layout(tuple(placed), run_end, align_up(end, HUGE_PAGE_BYTES))


def encode_index(layout: Layout, facts: dict[str, object]) -> bytes:
    index = {
        "facts": facts,
        "runBytes": layout.run_bytes,
        "dataBytes": layout.data_bytes,
        "storages": [asdict(storage) for storage in layout.storages],
    }
    return json.dumps(index, separators=(",", ":"), sort_keys=True).encode()


def data_start(index_bytes: int) -> int:
    return align_up(_HEAD.size + index_bytes, HUGE_PAGE_BYTES)


def encode_head(index: bytes, index_hash: bytes) -> bytes:
    return _HEAD.pack(MAGIC, len(index), index_hash) + index


def read_head(head: bytes, file_bytes: int) -> tuple[int, bytes]:
    """@param head the file's first 48 bytes. @returns length of the index and its hash. @raises ImageError"""
    if len(head) < _HEAD.size:
        raise ImageError("it ends in its head")
    magic, length, digest = _HEAD.unpack(head[: _HEAD.size])
    if magic != MAGIC:
        raise ImageError("it is no image of this release")
    if length > INDEX_BYTES_MAX or data_start(length) > file_bytes:
        raise ImageError("its index is longer than the file")
    return length, digest


def index_start() -> int:
    return _HEAD.size


def decode_index(index: bytes, file_bytes: int) -> tuple[Layout, dict[str, object]]:
    """@param index checked against its hash already. @raises ImageError"""
    try:
        given = json.loads(index)
        storages = tuple(
            StoragePlace(
                int(s["offset"]),
                int(s["bytes"]),
                str(s["blake3"]),
                tuple(
                    TensorPlace(t["name"], t["kind"], t["dtype"], tuple(t["shape"]), tuple(t["stride"]), t["storage_offset"])
                    for t in s["tensors"]
                ),
            )
            for s in given["storages"]
        )
        layout = Layout(storages, int(given["runBytes"]), int(given["dataBytes"]))
        facts = dict(given["facts"])
    except (ValueError, KeyError, TypeError) as error:
        raise ImageError(f"its index cannot be read: {error}") from error
    end = 0
    for storage in layout.storages:
        if storage.offset < end or storage.bytes < 0:
            raise ImageError("its storages overlap")
        end = storage.offset + storage.bytes
    if end > layout.data_bytes or layout.run_bytes > layout.data_bytes:
        raise ImageError("its storages end beyond it")
    if data_start(len(index)) + layout.data_bytes != file_bytes:
        raise ImageError(f"it has {file_bytes} bytes, not as many as its index says")
    return layout, facts
