"""vLLM's worker with a guard: it refuses to compute, or to touch weights, while they are not in memory, whatever route asked.

On a CPU the platform (cpu_platform.py) chooses it; on a GPU the command line does: --worker-cls gthread.worker.GThreadWorker.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vllm.platforms import current_platform

from . import plain_gemm
from .backend import GThreadBackend

if TYPE_CHECKING or not current_platform.is_cpu():
    from vllm.v1.worker.gpu_worker import Worker as StockWorker
else:
    from vllm.v1.worker.cpu_worker import CPUWorker as StockWorker

# What reads weights or the KV cache, or computes with them.
NEEDS_MEMORY = (
    "sample_tokens",
    "execute_dummy_batch",
    "determine_available_memory",
    "compile_or_warm_up_model",
    "compute_weight_checksums",
    "add_lora",
    "save_sharded_state",
    "save_tensorized_model",
)
# What changes weights: the image, shared by all replicas, would no longer be what was in memory.
CHANGES_WEIGHTS = (
    "reset_weights",
    "start_weight_update",
    "start_draft_weight_update",
    "update_weights",
    "finish_weight_update",
)


class WeightsAreShared(RuntimeError):
    """Refused: this engine's weights are an image that other engines use."""


def refusal(name: str) -> str:
    return f"{name} refused: other engines use these weights' image; start an engine with the new ones"


class GThreadWorker(StockWorker):
    @property
    def _gthread(self) -> GThreadBackend | None:
        """None without --enable-sleep-mode, or where another backend was asked for. vLLM makes its backend when it is first
        needed and keeps it: not before the loader has had its say (on a GPU no other place can choose it)."""
        if not self.model_config.enable_sleep_mode or self.model_config.sleep_mode_backend != "gthread":
            return None
        backend = self.sleep_mode_backend
        return backend if isinstance(backend, GThreadBackend) else None

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        if self._gthread is not None and current_platform.is_cpu():
            plain_gemm.install()
        super().load_model(*args, **kwargs)
        backend = self._gthread
        if backend is not None:
            backend.attach(self.model_runner.get_model(), self.get_draft_model(), self.vllm_config, self.rank)

    def initialize_from_config(self, kv_cache_config: Any) -> None:
        super().initialize_from_config(kv_cache_config)
        backend = self._gthread
        if backend is not None:
            backend.cache_made()

    def sleep(self, level: int = 1) -> None:
        """Without Worker.sleep's check of the whole GPU's free memory: another engine that wakes at that moment would
        fail it when the weights are gone already. Whoever asked measures."""
        backend = self._gthread
        if backend is None:
            return super().sleep(level)
        backend.suspend(level)
        self._communicators("suspend_device_comms")

    def wake_up(self, tags: list[str] | None = None) -> None:
        backend = self._gthread
        if backend is None:
            return super().wake_up(tags)
        backend.resume(tags)
        self._communicators("resume_device_comms")

    def discard(self, tags: tuple[str, ...]) -> None:
        backend = self._gthread
        if backend is None:
            return super().discard(tags)
        backend.discard(tags)

    def reload_weights(self, *args: Any, **kwargs: Any) -> None:
        """Without arguments, as after a wake from level 2: the image has brought back what the checkpoint would.
        @raises WeightsAreShared for weights of another place, Asleep before the weights are back"""
        backend = self._gthread
        if backend is None:
            return super().reload_weights(*args, **kwargs)
        if args or kwargs:
            raise WeightsAreShared(refusal("reload_weights"))
        backend.require_weights("reload_weights")

    def _communicators(self, action: str) -> None:
        if self.model_config.enable_nccl_comm_suspend and not current_platform.is_cpu():
            import vllm.v1.worker.gpu_worker as stock

            getattr(stock, action)()

    def execute_model(self, scheduler_output: Any) -> Any:
        """A step of no tokens only tells of requests that ended."""
        backend = self._gthread
        if backend is not None and scheduler_output.total_num_scheduled_tokens > 0:
            backend.require_awake("execute_model")
        return super().execute_model(scheduler_output)

    def gthread_stats(self) -> dict[str, object] | None:
        """For POST /collective_rpc {"method": "gthread_stats"}; None where the backend is another."""
        backend = self._gthread
        return None if backend is None else backend.stats()


def _guarded(name: str, stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def guarded(self: GThreadWorker, *args: Any, **kwargs: Any) -> Any:
        backend = self._gthread
        if backend is not None:
            backend.require_awake(name)
        return stock(self, *args, **kwargs)

    return guarded


def _refused(name: str, stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def refused(self: GThreadWorker, *args: Any, **kwargs: Any) -> Any:
        if self._gthread is not None:
            raise WeightsAreShared(refusal(name))
        return stock(self, *args, **kwargs)

    return refused


for _names, _wrap in ((NEEDS_MEMORY, _guarded), (CHANGES_WEIGHTS, _refused)):
    for _name in _names:
        _stock = getattr(StockWorker, _name, None)
        if _stock is not None:
            setattr(GThreadWorker, _name, _wrap(_name, _stock))
