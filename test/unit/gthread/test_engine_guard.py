"""The engine core's guard, on a class with the three methods of vLLM's that it wraps."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from functools import partial

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


@dataclass
class Worker:
    """`fails`: methods that it refuses, and how often."""

    asleep: bool = False
    fails: dict[str, int] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    def _run(self, name: str) -> None:
        self.ran.append(name)
        if self.fails.get(name, 0) > 0:
            self.fails[name] -= 1
            raise RuntimeError(f"{name} refused here")

    def sleep(self, level: int) -> None:
        self._run(f"sleep {level}")
        self.asleep = True

    def wake_up(self, tags: list[str] | None = None) -> None:
        self._run("wake_up")
        self.asleep = False


class Workers:
    """vLLM's Executor over several workers. As in multiproc_executor.py, an error ends the reading of answers, and those behind it
    are taken for the next call's."""

    def __init__(self, *workers: Worker) -> None:
        self.workers = workers
        self.sleeping_tags: set[str] = set()
        self.queues: list[list[tuple[bool, object]]] = [[] for _ in workers]

    @property
    def is_sleeping(self) -> bool:
        return bool(self.sleeping_tags)

    def collective_rpc(self, method: object, timeout: float | None = None, args: tuple = (), kwargs: dict | None = None) -> list:
        for worker, queue in zip(self.workers, self.queues, strict=True):
            call = getattr(worker, method) if isinstance(method, str) else partial(pickle.loads(pickle.dumps(method)), worker)
            try:
                queue.append((True, call(*args, **(kwargs or {}))))
            except Exception as error:
                queue.append((False, str(error)))
        answers = []
        for queue in self.queues:
            good, answer = queue.pop(0)
            if not good:
                raise RuntimeError(f"Worker failed with error '{answer}'")
            answers.append(answer)
        return answers

    def sleep(self, level: int = 1) -> None:
        if "weights" in self.sleeping_tags:
            return
        self.collective_rpc("sleep", kwargs={"level": level})
        self.sleeping_tags |= {"weights", "kv_cache"}

    def wake_up(self, tags: list[str] | None = None) -> None:
        if not self.is_sleeping:
            return
        self.collective_rpc("wake_up", kwargs={"tags": tags})
        self.sleeping_tags -= set(tags or self.sleeping_tags)


def executor(*workers: Worker) -> Workers:
    guarded_class = type("Executor", (Workers,), {name: vars(Workers)[name] for name in ("sleep", "wake_up")})
    for _ in range(2):
        engine_guard.install_executor(guarded_class)
    return guarded_class(*workers)


def test_workers_that_all_sleep_are_asleep() -> None:
    made = executor(Worker(), Worker())
    made.sleep(2)
    assert made.sleeping_tags == {"weights", "kv_cache"}
    made.sleep(1)
    assert [worker.ran for worker in made.workers] == [["sleep 2"], ["sleep 2"]]


@pytest.mark.parametrize("refuses", [0, 1, 2])
def test_a_sleep_that_one_worker_refuses_is_one_of_none(refuses: int) -> None:
    made = executor(Worker(), Worker(), Worker())
    made.workers[refuses].fails["sleep 1"] = 1
    with pytest.raises(Refused, match=f"worker {refuses}: RuntimeError: sleep 1 refused here; every worker has its memory back"):
        made.sleep(1)
    assert not any(worker.asleep for worker in made.workers)
    assert not made.is_sleeping
    assert made.queues == [[], [], []], "no answer is left for the next call"
    made.sleep(1)
    assert made.is_sleeping
    assert all(worker.asleep for worker in made.workers)


def test_a_worker_that_cannot_be_brought_back_is_brought_back_by_the_next_wake() -> None:
    made = executor(Worker(fails={"wake_up": 1}), Worker(fails={"sleep 1": 1}))
    with pytest.raises(Refused, match=r"worker 1: .*sleep 1 refused.*worker 0: .*wake_up refused.*/wake_up"):
        made.sleep(1)
    assert made.is_sleeping, "the core resumes no scheduler now"
    made.wake_up()
    assert not made.is_sleeping
    assert not made.workers[0].asleep


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
