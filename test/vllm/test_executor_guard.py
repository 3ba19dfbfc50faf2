"""A sleep of all workers or of none, on vLLM's own executor of several processes: its queues are lists here, its workers run in
this process when they are asked."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "vllm"))

import gthread
from gthread import engine_guard
from gthread.engine_guard import Refused
from vllm.v1.executor import abstract
from vllm.v1.executor.multiproc_executor import MultiprocExecutor, WorkerProc


class Worker:
    def __init__(self, refuses: bool) -> None:
        self.refuses, self.asleep = refuses, False

    def sleep(self, level: int) -> None:
        if self.refuses:
            raise RuntimeError("no image of the weights")
        self.asleep = True

    def wake_up(self, tags: list[str] | None) -> None:
        self.asleep = False


class Answers(deque):
    """A MessageQueue's words."""

    enqueue = deque.append

    def dequeue(self, timeout: float | None = None) -> Any:
        return self.popleft()


class Broadcast:
    def __init__(self, processes: list[WorkerProc]) -> None:
        self.processes = processes

    def enqueue(self, request: Any) -> None:
        for process in self.processes:
            process._execute_worker_rpc(request)


def executor_of(*refuses: bool) -> Any:
    """vLLM's MultiprocExecutor over workers that refuse their sleep or not."""
    gthread.register()
    processes = []
    for rank, refusing in enumerate(refuses):
        process = object.__new__(WorkerProc)
        process.worker, process.rank, process.use_async_scheduling = Worker(refusing), rank, False
        process.worker_response_mq = Answers()
        processes.append(process)
    made = object.__new__(MultiprocExecutor)
    made.rpc_broadcast_mq = Broadcast(processes)
    made.response_mqs = [process.worker_response_mq for process in processes]
    made.is_failed, made.futures_queue, made.sleeping_tags = False, deque(), set()
    return made


def workers(executor: Any) -> list[Worker]:
    return [process.worker for process in executor.rpc_broadcast_mq.processes]


def test_the_tags_of_a_sleep_are_vllms() -> None:
    assert engine_guard.SLEEP_TAGS == abstract.SLEEP_TAGS


def test_no_executor_of_vllms_has_a_sleep_of_its_own() -> None:
    """By their text: some cannot be imported without Ray."""
    own = [path.name for path in Path(abstract.__file__).parent.glob("*.py") if "def sleep(" in path.read_text()]
    assert own == ["abstract.py"]


def test_vllm_leaves_answers_behind_an_error_for_the_next_call() -> None:
    """What makes the guard ask for answers: once it does not hold any more, the guard may be simpler."""
    executor = executor_of(True, False)
    with pytest.raises(RuntimeError, match="no image"):
        executor.collective_rpc("sleep", kwargs={"level": 1})
    assert [len(answers) for answers in executor.response_mqs] == [0, 1]


@pytest.mark.parametrize("refuses", [(True, False), (False, True)])
def test_a_sleep_that_one_rank_refuses_is_one_of_none(refuses: tuple[bool, ...]) -> None:
    executor = executor_of(*refuses)
    with pytest.raises(Refused, match="no image of the weights; every worker has its memory back"):
        executor.sleep(1)
    assert [worker.asleep for worker in workers(executor)] == [False, False]
    assert not executor.is_sleeping
    assert [len(answers) for answers in executor.response_mqs] == [0, 0]


def test_all_ranks_sleep_and_wake() -> None:
    executor = executor_of(False, False)
    executor.sleep(2)
    assert executor.is_sleeping
    assert [worker.asleep for worker in workers(executor)] == [True, True]
    executor.wake_up()
    assert not executor.is_sleeping
    assert [worker.asleep for worker in workers(executor)] == [False, False]
