"""The engine core's guard, on a class with the three methods of vLLM's that it wraps."""

from __future__ import annotations

import pytest
from gthread import engine_guard
from gthread.engine_guard import Refused


class Executor:
    is_sleeping = False


def guarded() -> type:
    class Core:
        def __init__(self) -> None:
            self.model_executor = Executor()
            self.said: list[object] = []

        def resume_scheduler(self) -> None:
            self.said.append("resumed")

        def collective_rpc(self, method: str, timeout: float | None = None, args: tuple = ()) -> str:
            self.said.append((method, timeout, args))
            return "done"

        def wake_up(self, tags: list[str] | None = None) -> bool:
            self.model_executor.is_sleeping = tags is not None and "kv_cache" not in tags
            if not self.model_executor.is_sleeping:
                self.resume_scheduler()
            return not self.model_executor.is_sleeping

        def reset_prefix_cache(self) -> None:
            self.said.append("prefix cache reset")

    engine_guard.install(Core)
    engine_guard.install(Core)
    return Core


def test_resume_is_refused_asleep_and_free_awake() -> None:
    core = guarded()()
    core.model_executor.is_sleeping = True
    with pytest.raises(Refused, match="resume refused"):
        core.resume_scheduler()
    assert core.said == []
    core.model_executor.is_sleeping = False
    core.resume_scheduler()
    assert core.said == ["resumed"]


@pytest.mark.parametrize("method", ["sleep", "wake_up", "discard"])
def test_a_workers_own_methods_are_refused(method: str) -> None:
    core = guarded()()
    with pytest.raises(Refused, match=f"{method} refused"):
        core.collective_rpc(method)
    assert core.said == []


def test_other_methods_pass_with_their_arguments() -> None:
    core = guarded()()
    assert core.collective_rpc("gthread_stats", 3.0, args=(1,)) == "done"
    assert core.said == [("gthread_stats", 3.0, (1,))]


def test_the_prefix_cache_is_reset_once_all_is_awake() -> None:
    core = guarded()()
    core.model_executor.is_sleeping = True
    assert core.wake_up(["weights"]) is False
    assert core.said == []
    assert core.wake_up(["kv_cache"]) is True
    assert core.said == ["resumed", "prefix cache reset"]


def test_a_wake_of_scheduling_alone_leaves_the_cache() -> None:
    core = guarded()()
    core.wake_up()
    assert core.said == ["resumed"]


def test_a_vllm_without_the_methods_is_named() -> None:
    with pytest.raises(AttributeError, match="resume_scheduler"):
        engine_guard.install(type("Other", (), {}))
