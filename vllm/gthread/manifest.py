"""Reads manifest.pb of the gthread form (proto/weights.proto).

A decoder of its own, strict and small: code that protoc generates is tied to the release of the protobuf package it was
made for, and that package is vLLM's to choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

VERSION = 1
PAGE_BYTES = 2 * 1024 * 1024
SMALL_ALIGNMENT_BYTES = 256
HASH_BYTES = 8
MANIFEST_BYTES_MAX = 256 * 1024 * 1024
TENSORS_MAX = 1_000_000
DIMENSIONS_MAX = 16
NAME_BYTES_MAX = 4096
REMEDY = "delete the folder, the next conversion writes it again"

# Bytes of an element and torch's name, by the names that safetensors has for them; proto/weights.ts has the same.
DTYPES = {
    "BOOL": (1, "bool"),
    "U8": (1, "uint8"),
    "I8": (1, "int8"),
    "F8_E4M3": (1, "float8_e4m3fn"),
    "F8_E5M2": (1, "float8_e5m2"),
    "F8_E8M0": (1, "float8_e8m0fnu"),
    "F8_E4M3FNUZ": (1, "float8_e4m3fnuz"),
    "F8_E5M2FNUZ": (1, "float8_e5m2fnuz"),
    "U16": (2, "uint16"),
    "I16": (2, "int16"),
    "F16": (2, "float16"),
    "BF16": (2, "bfloat16"),
    "U32": (4, "uint32"),
    "I32": (4, "int32"),
    "F32": (4, "float32"),
    "U64": (8, "uint64"),
    "I64": (8, "int64"),
    "F64": (8, "float64"),
    "C64": (8, "complex64"),
}


class ManifestError(ValueError):
    """The text names the fault and the remedy."""

    def __init__(self, fault: str) -> None:
        super().__init__(f"manifest.pb: {fault}: {REMEDY}")


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


@dataclass(frozen=True)
class Manifest:
    model_name: str
    commit: str
    chunk_hashes: bytes
    bytes: int
    chunk_bytes: int
    tensors: tuple[Tensor, ...]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ManifestError("a number ends beyond its message")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                raise ManifestError("a number is beyond 64 bits")
            return value, at
        shift += 7


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers and values of a message's fields; 32- and 64-bit fixed ones come as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise ManifestError("a field has number 0")
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ManifestError(f"wire type {wire} is not of protobuf 3")
        if length > len(data) - at:
            raise ManifestError("a field ends beyond its message")
        yield number, data[at : at + length]
        at += length


def _number(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ManifestError("bytes where a number belongs")
    return value


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ManifestError("a number where bytes belong")
    return value


def _text(value: int | memoryview) -> str:
    raw = _bytes(value)
    if len(raw) > NAME_BYTES_MAX:
        raise ManifestError(f"a name has {len(raw)} bytes")
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError("a name is not UTF-8") from error


def _tensor(data: memoryview) -> Tensor:
    name = dtype = ""
    shape: list[int] = []
    offset = size = 0
    for number, value in _fields(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            dtype = _text(value)
        elif number == 3:
            if isinstance(value, int):
                shape.append(value)
            else:  # packed, as protobuf 3 writes it
                at = 0
                while at < len(value):
                    dimension, at = _varint(value, at)
                    shape.append(dimension)
        elif number == 4:
            offset = _number(value)
        elif number == 5:
            size = _number(value)
        if len(shape) > DIMENSIONS_MAX:
            raise ManifestError(f"tensor {name} has more than {DIMENSIONS_MAX} dimensions")
    return Tensor(name, dtype, tuple(shape), offset, size)


def decode_manifest(data: bytes) -> Manifest:
    """A later release's unknown fields do no harm. @raises ManifestError: what it is not, or does not hold together"""
    if len(data) > MANIFEST_BYTES_MAX:
        raise ManifestError(f"it has {len(data)} bytes, at most {MANIFEST_BYTES_MAX} are read")
    version = size = chunk = 0
    model_name = commit = ""
    hashes = b""
    tensors: list[Tensor] = []
    for number, value in _fields(memoryview(data)):
        if number == 1:
            version = _number(value)
        elif number == 2:
            model_name = _text(value)
        elif number == 3:
            commit = _text(value)
        elif number == 4:
            size = _number(value)
        elif number == 5:
            chunk = _number(value)
        elif number == 6:
            hashes = bytes(_bytes(value))
        elif number == 7:
            tensors.append(_tensor(_bytes(value)))
            if len(tensors) > TENSORS_MAX:
                raise ManifestError(f"more than {TENSORS_MAX} tensors")
    if version != VERSION:
        raise ManifestError(f"version {version}, not {VERSION}")
    manifest = Manifest(model_name, commit, hashes, size, chunk, tuple(tensors))
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    """The rules of proto/weights.ts, and that each tensor has the bytes that its shape and dtype say."""
    if manifest.bytes % PAGE_BYTES:
        raise ManifestError(f"{manifest.bytes} bytes are no whole pages")
    if manifest.chunk_bytes <= 0 or manifest.chunk_bytes % PAGE_BYTES:
        raise ManifestError(f"chunks of {manifest.chunk_bytes} bytes are no whole pages")
    if len(manifest.chunk_hashes) != -(-manifest.bytes // manifest.chunk_bytes) * HASH_BYTES:
        raise ManifestError(f"{len(manifest.chunk_hashes)} bytes of hashes for {manifest.bytes} bytes")
    end = 0
    names: set[str] = set()
    for tensor in manifest.tensors:
        if not tensor.name or tensor.name in names:
            raise ManifestError(f"tensor {tensor.name!r} is there twice or has no name")
        names.add(tensor.name)
        if tensor.dtype not in DTYPES:
            raise ManifestError(f"tensor {tensor.name} has dtype {tensor.dtype}, which this release does not load")
        elements = 1
        for dimension in tensor.shape:
            elements *= dimension
        if elements * DTYPES[tensor.dtype][0] != tensor.bytes:
            raise ManifestError(f"tensor {tensor.name} has {tensor.bytes} bytes for {list(tensor.shape)} of {tensor.dtype}")
        if tensor.offset < end:
            raise ManifestError(f"tensor {tensor.name} begins in the one before it")
        if tensor.offset % (PAGE_BYTES if tensor.bytes >= PAGE_BYTES else SMALL_ALIGNMENT_BYTES):
            raise ManifestError(f"tensor {tensor.name} is not aligned")
        end = tensor.offset + tensor.bytes
        if end > manifest.bytes:
            raise ManifestError(f"tensor {tensor.name} ends beyond the file")
