"""Weights that are still being staged are read as far as they are, and from disk where staging fails."""

from __future__ import annotations

import gc
import hashlib
import os
import threading
from pathlib import Path

import pytest
from gthread import xxh64
from gthread.buffers import FREE_MAX, MAPPED_BYTES_MIN, Buffers
from gthread.manifest import PAGE_BYTES, Manifest, Tensor
from gthread.staging import PROGRESS, STALL_SECONDS_MAX, Progress, StagingFailed
from gthread.weights_source import PIECE_BYTES, DamagedForm, OnDisk, Staged, tensors

TENSORS = (Tensor("a", "U8", (100,), 0, 100), Tensor("none", "U8", (0,), 256, 0), Tensor("b", "U8", (50,), 512, 50))
# xxh64 of a page of ones.
PAGE_OF_ONES = 0x89E7AB701B53BC96.to_bytes(8, "little")
MANIFEST = Manifest("org/name", "c", PAGE_OF_ONES, PAGE_BYTES, PAGE_BYTES, TENSORS)


def form_of(folder: Path, fill: int) -> Path:
    folder.mkdir()
    (folder / "weights").write_bytes(bytes([fill]) * PAGE_BYTES)
    (folder / "form.sha256").write_text(hashlib.sha256(MANIFEST.chunk_hashes).hexdigest())
    return folder


def beat(folder: Path, at: float) -> None:
    os.utime(folder / "progress", (at, at))


def say(folder: Path, there: int, state: int) -> None:
    """The agent writes by a mapping: the file's time says nothing of it."""
    (folder / "progress").write_bytes(PROGRESS.pack(there, state))
    beat(folder, 0)


@pytest.fixture
def form(tmp_path: Path) -> Path:
    return form_of(tmp_path / "form", 1)


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    return form_of(tmp_path / "staged", 2)


class Clock:
    """Time that passes only by waiting; something may happen at each wait."""

    def __init__(self, happens=lambda _: None) -> None:
        self.now, self.happens = 0.0, happens

    def wait(self, seconds: float) -> None:
        self.now += max(seconds, 1.0)
        self.happens(self.now)

    def clock(self) -> float:
        return self.now


def progress(folder: Path, clock: Clock) -> Progress:
    return Progress(folder, clock.wait, clock.clock)


@pytest.mark.parametrize("buffers", [None, Buffers()])
def test_a_tensor_waits_for_its_last_byte(staged: Path, buffers: Buffers | None) -> None:
    say(staged, 99, 0)
    clock = Clock(lambda now: say(staged, 100, 0) if now > 3 else None)
    assert bytes(Staged(staged, MANIFEST, buffers, progress(staged, clock)).read(TENSORS[0])) == b"\2" * 100
    assert clock.now > 3


def test_a_whole_one_is_not_asked_again(staged: Path) -> None:
    say(staged, PAGE_BYTES, 1)
    clock = Clock()
    source = Staged(staged, MANIFEST, Buffers(), progress(staged, clock))
    source.read(TENSORS[0])
    (staged / "progress").write_bytes(b"")
    source.read(TENSORS[2])
    assert clock.now == 0


def test_failure_and_silence_end_the_wait(staged: Path) -> None:
    say(staged, 0, 2)
    with pytest.raises(StagingFailed, match="could not stage"):
        progress(staged, Clock()).wait_for(1)
    say(staged, 10, 0)
    clock = Clock()
    with pytest.raises(StagingFailed, match="no byte was staged"):
        progress(staged, clock).wait_for(11)
    assert STALL_SECONDS_MAX < clock.now < STALL_SECONDS_MAX + 3


def test_slow_is_not_silent(staged: Path) -> None:
    say(staged, 0, 0)
    clock = Clock(lambda now: say(staged, int(now / (STALL_SECONDS_MAX - 5)), 0))
    progress(staged, clock).wait_for(4)
    assert clock.now > 2 * STALL_SECONDS_MAX


def test_an_agent_that_is_at_work_is_not_silent(staged: Path) -> None:
    """Other weights come first, for as long as they take."""
    say(staged, 0, 0)

    def happens(now: float) -> None:
        if now > 5 * STALL_SECONDS_MAX:
            say(staged, 4, 0)
        elif now % 10 == 0:
            beat(staged, now)

    clock = Clock(happens)
    progress(staged, clock).wait_for(4)
    assert clock.now > 5 * STALL_SECONDS_MAX


def test_an_agent_that_stops_working_is_silent_from_then_on(staged: Path) -> None:
    say(staged, 0, 0)
    last = 2 * STALL_SECONDS_MAX
    clock = Clock(lambda now: beat(staged, now) if now <= last else None)
    with pytest.raises(StagingFailed, match="no byte was staged"):
        progress(staged, clock).wait_for(4)
    assert last + STALL_SECONDS_MAX < clock.now < last + STALL_SECONDS_MAX + 3


def test_half_a_record_is_none(staged: Path) -> None:
    (staged / "progress").write_bytes(b"\1" * 8)
    clock = Clock(lambda _: say(staged, 5, 0))
    progress(staged, clock).wait_for(5)
    assert clock.now > 0


def read_all(form: Path, staged: Path | None) -> tuple[list[bytes], list[str]]:
    said: list[str] = []
    return [bytes(data[:1]) for _, data in tensors(form, staged, MANIFEST, said.append)], said


def test_the_pool_is_read_first(form: Path, staged: Path) -> None:
    say(staged, PAGE_BYTES, 1)
    assert read_all(form, staged) == ([b"\2", b"", b"\2"], [f"weights from {staged}"])


@pytest.mark.parametrize("other", [None, "", "0" * 64])
def test_bytes_of_another_form_are_not_taken(form: Path, staged: Path, other: str | None) -> None:
    say(staged, PAGE_BYTES, 1)
    (staged / "form.sha256").unlink()
    if other is not None:
        (staged / "form.sha256").write_text(other)
    heads, said = read_all(form, staged)
    assert heads == [b"\1", b"", b"\1"]
    assert "form" in said[1]


def mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def test_nothing_stays_mapped_once_the_last_tensor_is_gone(form: Path, staged: Path) -> None:
    say(staged, PAGE_BYTES, 1)
    held = [data for tensor, data in tensors(form, staged, MANIFEST, lambda _: None, whole=False) if tensor.name == "a"]
    assert mapped(staged)
    assert bytes(held[0][:1]) == b"\2"
    held.clear()
    gc.collect()
    assert not mapped(staged)


def test_no_folder_in_the_pool_means_the_disk(form: Path, staged: Path) -> None:
    assert read_all(form, form / "nowhere") == ([b"\1", b"", b"\1"], [f"weights from {form}"])
    assert read_all(form, None)[0] == [b"\1", b"", b"\1"]


def test_a_pool_of_another_length_means_the_disk(form: Path, staged: Path) -> None:
    say(staged, PAGE_BYTES, 1)
    os.truncate(staged / "weights", PAGE_BYTES - 1)
    values, said = read_all(form, staged)
    assert values[0] == b"\1"
    assert "its manifest says" in said[0]


def test_staging_that_fails_midway_goes_on_from_disk(form: Path, staged: Path) -> None:
    say(staged, 200, 0)
    threading.Timer(0.1, lambda: say(staged, 200, 2)).start()
    values, said = read_all(form, staged)
    assert values == [b"\2", b"", b"\1"]
    assert "reading the rest from disk" in said[1]


def test_what_is_taken_whole_is_the_takers_own(form: Path, staged: Path) -> None:
    say(staged, PAGE_BYTES, 1)
    held = [data for _, data in tensors(form, staged, MANIFEST, lambda _: None)]
    assert not mapped(staged)
    held[0][0] = 9
    assert (staged / "weights").read_bytes() == b"\2" * PAGE_BYTES


def test_of_what_is_not_wanted_nothing_is_read(form: Path, staged: Path) -> None:
    say(staged, 100, 0)
    read = [tensor.name for tensor, _ in tensors(form, staged, MANIFEST, lambda _: None, wanted=lambda name: name != "b")]
    assert read == ["a", "none"]


def test_a_large_tensor_is_read_piece_by_piece_as_it_is_staged(tmp_path: Path) -> None:
    length = 3 * PIECE_BYTES
    folder = tmp_path / "staged"
    folder.mkdir()
    tensor = Tensor("large", "U8", (length - PAGE_BYTES,), PAGE_BYTES, length - PAGE_BYTES)
    manifest = Manifest("org/name", "c", b"", length, PIECE_BYTES, (tensor,))
    (folder / "form.sha256").write_text(hashlib.sha256(b"").hexdigest())
    (folder / "weights").touch()
    os.truncate(folder / "weights", length)

    def stage(now: float) -> None:
        """The piece before must have been taken by then: it is overwritten."""
        number = int(now) - 1
        with (folder / "weights").open("r+b") as file:
            file.write(b"\xff" * number * PIECE_BYTES + bytes([number + 1]) * PIECE_BYTES)
        say(folder, (number + 1) * PIECE_BYTES, 0)

    say(folder, 0, 0)
    data = Staged(folder, manifest, Buffers(), progress(folder, Clock(stage))).read(tensor)
    pieces = [
        data[0],
        data[PIECE_BYTES - PAGE_BYTES - 1],
        data[PIECE_BYTES - PAGE_BYTES],
        data[2 * PIECE_BYTES - PAGE_BYTES],
        data[-1],
    ]
    assert pieces == [1, 1, 2, 3, 3]


def test_a_pool_file_cut_short_later_means_the_disk(form: Path, staged: Path) -> None:
    say(staged, PAGE_BYTES, 1)
    given = tensors(form, staged, MANIFEST, lambda _: None)
    assert bytes(next(given)[1]) == b"\2" * 100
    os.truncate(staged / "weights", 512)
    assert [bytes(data) for _, data in given] == [b"", b"\1" * 50]


def is_hash(data: memoryview) -> int:
    """Not a good one."""
    return sum(bytes(data[:: PAGE_BYTES // 2]))


CHUNKS = Manifest(
    "org/name",
    "c",
    b"".join(value.to_bytes(8, "little") for value in (2, 4, 6)),
    3 * PAGE_BYTES,
    PAGE_BYTES,
    (
        Tensor("small", "U8", (256,), 0, 256),
        Tensor("next", "U8", (PAGE_BYTES - 256,), 256, PAGE_BYTES - 256),
        Tensor("long", "U8", (PAGE_BYTES + 100,), PAGE_BYTES, PAGE_BYTES + 100),
    ),
)


@pytest.fixture
def chunks(tmp_path: Path) -> Path:
    folder = tmp_path / "chunks"
    folder.mkdir()
    (folder / "weights").write_bytes(b"\1" * PAGE_BYTES + b"\2" * PAGE_BYTES + b"\3" * PAGE_BYTES)
    return folder


def test_tensors_on_disk_are_read_whole_wherever_chunks_begin(chunks: Path) -> None:
    seen: list[int] = []

    def counted(data: memoryview) -> int:
        seen.append(data[0])
        return is_hash(data)

    source = OnDisk(chunks, CHUNKS, lambda _: None, Buffers(), counted)
    read = [bytes(source.read(tensor)) for tensor in CHUNKS.tensors]
    assert read == [b"\1" * 256, b"\1" * (PAGE_BYTES - 256), b"\2" * PAGE_BYTES + b"\3" * 100]
    assert seen == [1, 2, 3], "each chunk is read and checked once"


@pytest.mark.parametrize("at", [0, PAGE_BYTES, 2 * PAGE_BYTES], ids=["of small ones", "of a long one", "in its end"])
def test_a_damaged_chunk_on_disk_is_no_tensor(chunks: Path, at: int) -> None:
    with (chunks / "weights").open("r+b") as file:
        file.seek(at)
        file.write(b"\x7f")
    source = OnDisk(chunks, CHUNKS, lambda _: None, Buffers(), is_hash)
    with pytest.raises(DamagedForm, match=f"bytes at {at} do not have the hash.*delete the folder"):
        list(map(source.read, CHUNKS.tensors))


@pytest.mark.skipif(xxh64.find() is None, reason=f"no {xxh64.LIBRARY} here")
def test_what_the_agent_found_damaged_is_not_loaded_from_the_disk_either(tmp_path: Path, staged: Path) -> None:
    damaged = form_of(tmp_path / "damaged", 3)
    say(staged, 0, 2)
    with pytest.raises(DamagedForm, match="do not have the hash"):
        read_all(damaged, staged)


def test_a_disk_that_was_wrong_once_is_asked_again(chunks: Path) -> None:
    wrong = [True]

    def digest(data: memoryview) -> int:
        return 0 if wrong.pop() else is_hash(data)

    wrong[:0] = [False] * 3
    source = OnDisk(chunks, CHUNKS, lambda _: None, Buffers(), digest)
    assert bytes(source.read(CHUNKS.tensors[0])) == b"\1" * 256


def test_a_system_without_the_hash_says_so(chunks: Path) -> None:
    said: list[str] = []
    assert bytes(OnDisk(chunks, CHUNKS, said.append, Buffers(), None).read(CHUNKS.tensors[0])) == b"\1" * 256
    assert "unchecked" in said[0]


def test_xxh64_is_the_converters() -> None:
    digest = xxh64.find()
    if digest is None:
        pytest.skip(f"no {xxh64.LIBRARY} here")
    # Of its specification's test vectors, seed 0.
    assert digest(memoryview(bytearray())) == 0xEF46DB3751D8E999
    assert digest(memoryview(bytearray(b"abc"))) == 0x44BC2CF5AD770999


def test_a_buffer_is_used_again_once_nobody_holds_it() -> None:
    buffers = Buffers()
    first = buffers.take(MAPPED_BYTES_MIN)
    first[0] = 7
    part = first[:1]
    del first
    assert buffers.take(MAPPED_BYTES_MIN)[0] == 0, "somebody holds a part of it"
    gc.collect()
    buffers = Buffers()
    first = buffers.take(MAPPED_BYTES_MIN)
    first[0] = 7
    del first, part
    gc.collect()
    assert buffers.take(MAPPED_BYTES_MIN)[0] == 7


def test_a_small_tensor_takes_no_large_buffer_and_few_are_kept() -> None:
    buffers = Buffers()
    held = [buffers.take(size * MAPPED_BYTES_MIN) for size in (8, 9, 10, 11, 12)]
    held.clear()
    gc.collect()
    assert len(buffers._free) == FREE_MAX
    buffers.take(MAPPED_BYTES_MIN)
    assert max(each.bytes for each in buffers._free) >= 8 * MAPPED_BYTES_MIN
    held = [buffers.take(12 * MAPPED_BYTES_MIN)]
    buffers.close()
    assert buffers._free == []
    held[0][0] = 1
    held.clear()
    gc.collect()
    assert buffers._free == []
