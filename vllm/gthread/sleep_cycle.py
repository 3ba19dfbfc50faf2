"""What is asleep, and that a suspend is all or nothing. Knows no vLLM: tags and a memory that can fail."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Protocol

TAGS = frozenset({"weights", "kv_cache"})


class Asleep(RuntimeError):
    """Refused: the weights are not in memory."""


class SuspendFailed(RuntimeError):
    """Nothing is freed; the engine may go on."""


class Broken(RuntimeError):
    """Memory is lost and could not be brought back: the engine must be started again."""


class Memory(Protocol):
    """Frees and brings back; by tag."""

    def prepare(self, tags: frozenset[str]) -> None:
        """All that can fail before anything is freed."""

    def drop(self, tags: frozenset[str]) -> None: ...

    def bring_back(self, tags: frozenset[str]) -> None:
        """Whole, even when only a part of it was dropped."""


class SleepCycle:
    """State of one worker's memory. `moving` covers the time in between, when neither is true."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._asleep: frozenset[str] = frozenset()
        self._moving = False
        self._broken: str | None = None

    @property
    def asleep(self) -> frozenset[str]:
        return self._asleep

    @property
    def broken(self) -> str | None:
        return self._broken

    def suspend(self, tags: Iterable[str] = TAGS) -> frozenset[str]:
        """@returns what was dropped now. @raises SuspendFailed, Broken"""
        with self._lock:
            self._require_whole()
            wanted = self._known(tags) - self._asleep
            if not wanted:
                return wanted
            self._moving = True
            try:
                self._suspend(wanted)
                self._asleep |= wanted
            finally:
                self._moving = False
            return wanted

    def _suspend(self, wanted: frozenset[str]) -> None:
        try:
            self._memory.prepare(wanted)
        except Exception as error:
            raise SuspendFailed(f"sleep refused, nothing was freed: {error}") from error
        try:
            self._memory.drop(wanted)
        except Exception as error:
            try:
                self._memory.bring_back(wanted)
            except Exception as second:
                self._broken = f"a sleep failed ({error}) and its memory could not be brought back ({second})"
                raise Broken(self._broken) from second
            raise SuspendFailed(f"sleep failed, all is back in memory: {error}") from error

    def resume(self, tags: Iterable[str] | None = None) -> frozenset[str]:
        """@param tags None: all that is asleep. @returns what was brought back. @raises Broken; the next resume tries again"""
        with self._lock:
            self._require_whole()
            wanted = self._asleep if tags is None else self._known(tags) & self._asleep
            if not wanted:
                return wanted
            self._moving = True
            try:
                self._memory.bring_back(wanted)
                self._asleep -= wanted
            finally:
                self._moving = False
            return wanted

    def require_awake(self, what: str, tags: Iterable[str] = TAGS) -> None:
        """@raises Asleep unless every byte of these is in memory, and while anything moves"""
        if self._broken is not None:
            raise Asleep(f"{what} refused: {self._broken}")
        away = self._asleep & self._known(tags)
        if self._moving or away:
            state = "falls asleep or wakes" if self._moving else f"sleeps ({', '.join(sorted(away))})"
            raise Asleep(f"{what} refused: this worker {state}; POST /wake_up first")

    def _require_whole(self) -> None:
        if self._broken is not None:
            raise Broken(self._broken)

    @staticmethod
    def _known(tags: Iterable[str]) -> frozenset[str]:
        known = frozenset(tags)
        if not known <= TAGS:
            raise ValueError(f"tags {sorted(known - TAGS)} are unknown; known are {sorted(TAGS)}")
        return known
