"""Weights that are still being staged are read as far as they are, and from disk where staging fails."""

from __future__ import annotations

import gc
import hashlib
import os
import threading
from pathlib import Path

import pytest
from gthread.manifest import PAGE_BYTES, Manifest, Tensor
from gthread.staging import PROGRESS, STALL_SECONDS_MAX, Progress, StagingFailed
from gthread.weights_source import Staged, tensors

TENSORS = (Tensor("a", "U8", (100,), 0, 100), Tensor("none", "U8", (0,), 256, 0), Tensor("b", "U8", (50,), 512, 50))
MANIFEST = Manifest("org/name", "c", b"", PAGE_BYTES, PAGE_BYTES, TENSORS)


def form_of(folder: Path, fill: int) -> Path:
    folder.mkdir()
    (folder / "weights").write_bytes(bytes([fill]) * PAGE_BYTES)
    (folder / "form.sha256").write_text(hashlib.sha256(MANIFEST.chunk_hashes).hexdigest())
    return folder


def say(folder: Path, there: int, state: int) -> None:
    (folder / "progress").write_bytes(PROGRESS.pack(there, state))


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


def test_a_tensor_waits_for_its_last_byte(staged: Path) -> None:
    say(staged, 99, 0)
    clock = Clock(lambda now: say(staged, 100, 0) if now > 3 else None)
    assert bytes(Staged(staged, MANIFEST, progress(staged, clock)).read(TENSORS[0])) == b"\2" * 100
    assert clock.now > 3


def test_a_whole_one_is_not_asked_again(staged: Path) -> None:
    say(staged, PAGE_BYTES, 1)
    clock = Clock()
    source = Staged(staged, MANIFEST, progress(staged, clock))
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
    held = [data for tensor, data in tensors(form, staged, MANIFEST, lambda _: None) if tensor.name == "a"]
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
