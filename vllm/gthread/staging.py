"""Follows the agent's staging: which bytes of `weights` are there already (docs/weights.md)."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

PROGRESS = struct.Struct("<QQ")
UNDER_WAY, WHOLE, FAILED = 0, 1, 2
POLL_SECONDS = 0.002
# An agent that stages reads gigabytes a second, and while others come first it touches `progress` every 2 s (one of an earlier
# release does not). One that does neither for so long is gone, and the disk has the same bytes.
STALL_SECONDS_MAX = 30.0


class StagingFailed(Exception):
    """Read from disk instead; the text says why."""


class Progress:
    """@param wait, clock for tests"""

    def __init__(
        self,
        folder: Path,
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """@raises StagingFailed when nothing is staged there"""
        self._wait, self._clock = wait, clock
        self._there = 0
        self._touched_ns = 0
        self._whole = False
        try:
            self._file = os.open(folder / "progress", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StagingFailed(f"{folder}/progress cannot be opened: {error.strerror}") from error

    def wait_for(self, end: int) -> None:
        """Until the first `end` bytes are there and checked. @raises StagingFailed"""
        since = self._clock()
        while self._there < end and not self._whole:
            before = (self._there, self._touched_ns)
            self._read()
            if self._there >= end or self._whole:
                return
            now = self._clock()
            if (self._there, self._touched_ns) != before:
                since = now
            elif now - since > STALL_SECONDS_MAX:
                raise StagingFailed(f"no byte was staged for {STALL_SECONDS_MAX:.0f} s, nor any announced (at {self._there})")
            self._wait(POLL_SECONDS)

    def _read(self) -> None:
        try:
            data = os.pread(self._file, PROGRESS.size, 0)
            self._touched_ns = os.fstat(self._file).st_mtime_ns
        except OSError as error:
            raise StagingFailed(f"progress cannot be read: {error.strerror}") from error
        if len(data) != PROGRESS.size:
            return  # made, not written yet
        there, state = PROGRESS.unpack(data)
        if state == FAILED:
            raise StagingFailed("the agent could not stage these weights")
        self._there = max(self._there, there)
        self._whole = state == WHOLE

    def close(self) -> None:
        os.close(self._file)
