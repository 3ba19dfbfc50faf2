"""The worker's guard itself, without an engine around it: the engine core's guard lets no such call through."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "vllm"))

from gthread import worker as worker_module
from gthread.backend import GThreadBackend
from gthread.sleep_cycle import Asleep, SleepCycle, SuspendFailed
from gthread.worker import CHANGES_WEIGHTS, NEEDS_MEMORY, GThreadWorker, WeightsAreShared


class Memory:
    freed_bytes, map_weights = 0, False

    def prepare(self, tags) -> None: ...

    def drop(self, tags) -> None: ...

    def bring_back(self, tags) -> None: ...


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch):
    """Of vLLM's class, with no model in it; `ran` has what reached vLLM's own execute_model."""
    made = object.__new__(GThreadWorker)
    made.model_config = SimpleNamespace(enable_sleep_mode=True, sleep_mode_backend="gthread", enable_nccl_comm_suspend=False)
    made._sleep_mode_backend = backend = GThreadBackend()
    backend._memory = Memory()
    backend._cycle = SleepCycle(Memory())
    made.ran = []
    monkeypatch.setattr(worker_module.StockWorker, "execute_model", lambda self, step: self.ran.append(step) or "output")
    return made


def test_the_backend_that_the_loader_chooses_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import gthread

    gthread.register()
    made = object.__new__(GThreadWorker)
    made.model_config = SimpleNamespace(enable_sleep_mode=True, sleep_mode_backend="cumem")
    made.vllm_config = SimpleNamespace(model_config=made.model_config)
    made.model_runner = SimpleNamespace(get_model=lambda: "model", get_draft_model=lambda: None)
    made._sleep_mode_backend, made.rank = None, 3
    attached = []
    monkeypatch.setattr(GThreadBackend, "attach", lambda self, *given: attached.append(given))

    def load(self) -> None:
        self.model_config.sleep_mode_backend = "gthread"

    monkeypatch.setattr(worker_module.StockWorker, "load_model", load)
    made.load_model()
    assert attached == [("model", None, made.vllm_config, 3)]


def step(tokens: int) -> SimpleNamespace:
    return SimpleNamespace(total_num_scheduled_tokens=tokens)


def test_a_step_runs_awake_and_not_asleep(worker) -> None:
    assert worker.execute_model(step(1)) == "output"
    worker.sleep()
    with pytest.raises(Asleep, match="execute_model refused"):
        worker.execute_model(step(1))
    worker.wake_up(["weights"])
    with pytest.raises(Asleep, match="kv_cache"):
        worker.execute_model(step(1))
    worker.wake_up()
    assert worker.execute_model(step(1)) == "output"
    assert len(worker.ran) == 2


def test_a_step_of_no_tokens_passes_asleep(worker) -> None:
    worker.sleep()
    assert worker.execute_model(step(0)) == "output"


@pytest.mark.parametrize("name", NEEDS_MEMORY)
def test_what_needs_memory_is_this_vllms_and_refused_asleep(worker, name: str) -> None:
    assert hasattr(worker_module.StockWorker, name), "this release has another name for it"
    worker.sleep()
    with pytest.raises(Asleep, match=name):
        getattr(worker, name)()


@pytest.mark.parametrize("name", CHANGES_WEIGHTS)
def test_what_changes_weights_is_this_vllms_and_refused_always(worker, name: str) -> None:
    assert hasattr(worker_module.StockWorker, name), "this release has another name for it"
    with pytest.raises(WeightsAreShared, match=name):
        getattr(worker, name)()


def test_without_an_image_a_sleep_frees_nothing_and_says_why(worker, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = worker._sleep_mode_backend
    backend._cycle = None
    with pytest.raises(SuspendFailed, match="not loaded"):
        worker.sleep()

    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backend, "_make_ready", full)
    with pytest.raises(SuspendFailed, match=r"nothing was freed.*No space left"):
        worker.sleep()
    worker.wake_up()
    assert worker.execute_model(step(1)) == "output"
