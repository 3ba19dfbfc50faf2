"""manifest.pb is believed only when it holds together."""

from __future__ import annotations

import pytest
from gthread.manifest import HASH_BYTES, PAGE_BYTES, ManifestError, Tensor, decode_manifest

CHUNK = 8 * 1024 * 1024


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def data(field: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def tensor(name: str, dtype: str, shape: list[int], offset: int, size: int, packed: bool = True) -> bytes:
    dimensions = data(3, b"".join(map(varint, shape))) if packed else b"".join(number(3, d) for d in shape)
    return data(7, data(1, name) + data(2, dtype) + dimensions + number(4, offset) + number(5, size))


A = tensor("a", "BF16", [1024, 1024], 0, 2 * 1024 * 1024)
B = tensor("b", "F32", [2, 3], PAGE_BYTES, 24)


def manifest(*tensors: bytes, version: int = 1, size: int = 2 * PAGE_BYTES, chunk: int = CHUNK, hashes: int = 1) -> bytes:
    head = number(1, version) + data(2, "org/name") + data(3, "c0ffee") + number(4, size) + number(5, chunk)
    return head + data(6, b"\1" * HASH_BYTES * hashes) + b"".join(tensors)


def test_it_is_read() -> None:
    read = decode_manifest(manifest(A, B))
    assert (read.model_name, read.commit, read.bytes, read.chunk_bytes) == ("org/name", "c0ffee", 2 * PAGE_BYTES, CHUNK)
    assert read.tensors == (
        Tensor("a", "BF16", (1024, 1024), 0, 2 * 1024 * 1024),
        Tensor("b", "F32", (2, 3), PAGE_BYTES, 24),
    )


def test_shapes_may_be_unpacked_and_scalars_have_none() -> None:
    unpacked = tensor("a", "F32", [2, 3], 0, 24, packed=False)
    assert decode_manifest(manifest(unpacked, tensor("s", "F64", [], 256, 8))).tensors[1].shape == ()
    assert decode_manifest(manifest(unpacked)).tensors[0].shape == (2, 3)


def test_a_later_releases_fields_do_no_harm() -> None:
    later = manifest(A) + number(99, 1) + data(98, b"x") + varint(97 << 3 | 1) + b"8bytes.." + varint(96 << 3 | 5) + b"4byt"
    assert len(decode_manifest(later).tensors) == 1


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (manifest(A)[:-3], "ends beyond"),
        (b"\xff" * 12, "64 bits|beyond"),
        (manifest(version=2), "version 2, not 1"),
        (b"", "version 0"),
        (manifest(size=PAGE_BYTES + 1), "no whole pages"),
        (manifest(chunk=0), "chunks of 0"),
        (manifest(hashes=2), "16 bytes of hashes"),
        (manifest(A, A), "twice"),
        (manifest(A, tensor("b", "F32", [2, 3], 0, 24)), "begins in the one before"),
        (manifest(tensor("b", "F32", [2, 3], 8, 24)), "not aligned"),
        (manifest(tensor("a", "BF16", [1024, 1024], 256, 2 * 1024 * 1024)), "not aligned"),
        (manifest(tensor("b", "F32", [2, 3], 2 * PAGE_BYTES, 24)), "beyond the file"),
        (manifest(tensor("b", "F32", [2, 3], 0, 25)), "25 bytes for"),
        (manifest(tensor("b", "Q7", [2], 0, 2)), "dtype Q7"),
        (manifest(tensor("b", "F4", [4], 0, 2)), "dtype F4"),
        (manifest(tensor("b", "F32", [1] * 17, 0, 4)), "more than 16 dimensions"),
        (data(1, b"x"), "bytes where a number"),
        (number(2, 5), "number where bytes"),
        (data(2, b"\xff\xfe"), "not UTF-8"),
        (varint(1 << 3 | 3), "wire type 3"),
    ],
)
def test_what_does_not_hold_together_is_refused_with_the_remedy(bad: bytes, said: str) -> None:
    with pytest.raises(ManifestError, match=said) as refused:
        decode_manifest(bad)
    assert "delete the folder" in str(refused.value)
