"""Memory by the kernel's calls."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from gthread import memory


def test_anonymous_memory_begins_on_a_large_page_and_comes_back_as_zeroes() -> None:
    mapping = memory.map_anonymous(3 * memory.PAGE_BYTES)
    assert mapping.address % memory.HUGE_PAGE_BYTES == 0
    mapping.view()[:] = b"x" * mapping.bytes
    assert memory.free_pages(mapping.address, mapping.bytes) == mapping.bytes
    assert bytes(mapping.view()) == b"\0" * mapping.bytes
    mapping.close()


def test_only_whole_pages_inside_are_freed() -> None:
    mapping = memory.map_anonymous(3 * memory.PAGE_BYTES)
    mapping.view()[:] = b"x" * mapping.bytes
    assert memory.free_pages(mapping.address + 1, 2 * memory.PAGE_BYTES) == memory.PAGE_BYTES
    assert memory.free_pages(mapping.address + 1, 100) == 0
    left = bytes(mapping.view())
    assert left.count(b"x") == 2 * memory.PAGE_BYTES
    mapping.close()


def test_a_freed_run_leaves_the_resident_set() -> None:
    size = 64 * 1024 * 1024
    mapping = memory.map_anonymous(size)
    mapping.view()[:] = b"x" * size
    before = memory.resident_bytes()["RssAnon"]
    memory.free_pages(mapping.address, size)
    assert before - memory.resident_bytes()["RssAnon"] > 0.9 * size
    mapping.close()


def test_a_file_is_seen_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 5000)
    descriptor = os.open(path, os.O_RDONLY)
    mapping = memory.map_file(descriptor, 15000)
    os.close(descriptor)
    target = memory.map_anonymous(15000)
    memory.copy(target.address, mapping.address, 15000)
    assert bytes(target.view(0, 6)) == b"abcabc"
    with pytest.raises(ValueError, match="beyond"):
        mapping.view(14000, 2000)


def test_bad_advice_is_an_error() -> None:
    mapping = memory.map_anonymous(memory.PAGE_BYTES)
    with pytest.raises(OSError, match="madvise"):
        memory.advise(mapping.address, mapping.bytes, 9999)
    assert not memory.try_advise(mapping.address, mapping.bytes, 9999)
