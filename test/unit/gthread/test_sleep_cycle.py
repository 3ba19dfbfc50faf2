"""A suspend is all or nothing, and nothing runs on memory that is not there."""

from __future__ import annotations

import pytest
from gthread.sleep_cycle import TAGS, Asleep, Broken, SleepCycle, SuspendFailed


class FakeMemory:
    """Content by tag; fails where it is told to."""

    def __init__(self) -> None:
        self.there = {"weights": True, "kv_cache": True}
        self.fails: set[str] = set()
        self.cycle: SleepCycle | None = None

    def _maybe_fail(self, where: str) -> None:
        if where in self.fails:
            raise OSError(f"{where} failed")

    def prepare(self, tags: frozenset[str]) -> None:
        self._maybe_fail("prepare")

    def drop(self, tags: frozenset[str]) -> None:
        for number, tag in enumerate(sorted(tags)):
            if number == 1:
                self._maybe_fail("drop")
            self.there[tag] = False
        if self.cycle:
            with pytest.raises(Asleep, match="falls asleep or wakes"):
                self.cycle.require_awake("step")

    def bring_back(self, tags: frozenset[str]) -> None:
        self._maybe_fail("bring_back")
        for tag in tags:
            self.there[tag] = True


@pytest.fixture
def memory() -> FakeMemory:
    return FakeMemory()


@pytest.fixture
def cycle(memory: FakeMemory) -> SleepCycle:
    memory.cycle = SleepCycle(memory)
    return memory.cycle


def test_asleep_it_refuses_and_awake_it_does_not(cycle: SleepCycle, memory: FakeMemory) -> None:
    cycle.require_awake("execute_model")
    assert cycle.suspend() == TAGS
    with pytest.raises(Asleep, match=r"execute_model refused: this worker sleeps \(kv_cache, weights\)"):
        cycle.require_awake("execute_model")
    assert cycle.resume() == TAGS
    cycle.require_awake("execute_model")
    assert all(memory.there.values())


def test_a_second_sleep_and_a_second_wake_do_nothing(cycle: SleepCycle) -> None:
    cycle.suspend()
    assert cycle.suspend() == frozenset()
    cycle.resume()
    assert cycle.resume() == frozenset()


def test_half_awake_is_asleep(cycle: SleepCycle) -> None:
    cycle.suspend()
    assert cycle.resume(["weights"]) == {"weights"}
    with pytest.raises(Asleep, match="kv_cache"):
        cycle.require_awake("step")
    assert cycle.resume(["kv_cache", "weights"]) == {"kv_cache"}
    cycle.require_awake("step")


def test_one_tag_can_be_discarded_and_the_other_follow(cycle: SleepCycle) -> None:
    assert cycle.suspend(["kv_cache"]) == {"kv_cache"}
    assert cycle.suspend() == {"weights"}


def test_an_unknown_tag_is_refused(cycle: SleepCycle) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        cycle.suspend(["nonsense"])


@pytest.mark.parametrize("where", ["prepare", "drop"])
def test_a_sleep_that_fails_leaves_everything_in_memory(cycle: SleepCycle, memory: FakeMemory, where: str) -> None:
    memory.fails = {where}
    with pytest.raises(SuspendFailed, match=f"{where} failed"):
        cycle.suspend()
    assert all(memory.there.values())
    cycle.require_awake("step")
    memory.fails = set()
    assert cycle.suspend() == TAGS


def test_a_wake_that_fails_is_still_asleep_and_can_be_tried_again(cycle: SleepCycle, memory: FakeMemory) -> None:
    cycle.suspend()
    memory.fails = {"bring_back"}
    with pytest.raises(OSError, match="bring_back failed"):
        cycle.resume()
    with pytest.raises(Asleep):
        cycle.require_awake("step")
    memory.fails = set()
    cycle.resume()
    cycle.require_awake("step")


def test_memory_that_cannot_be_brought_back_breaks_the_engine_for_good(cycle: SleepCycle, memory: FakeMemory) -> None:
    memory.fails = {"drop", "bring_back"}
    with pytest.raises(Broken, match=r"drop failed.*bring_back failed"):
        cycle.suspend()
    memory.fails = set()
    for call in (cycle.suspend, cycle.resume):
        with pytest.raises(Broken):
            call()
    with pytest.raises(Asleep, match="could not be brought back"):
        cycle.require_awake("step")
