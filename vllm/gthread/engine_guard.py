"""Guards vLLM's engine core: what would run on missing weights is refused before it reaches the worker.

The worker's own guard (worker.py) is the last line: it makes a step fail, and with it the engine. Here a wrong call is answered
with an error and the engine lives on. vLLM has no hook for it, so three methods are wrapped; versions.py says for which releases.
"""

from __future__ import annotations

import functools
from typing import Any

# Worker methods that only the engine itself may call: past it, the scheduler would not know that memory is gone.
ENGINE_ONLY = frozenset({"sleep", "wake_up", "discard"})


class Refused(RuntimeError):
    """Answered to the caller; nothing happened."""


def install(core: type) -> None:
    """@param core vllm.v1.engine.core.EngineCore, or a class with its methods. A second call does nothing.
    @raises AttributeError naming the method that this vLLM lacks"""
    if getattr(core, "gthread_guarded", False):
        return
    stock: dict[str, Any] = {name: getattr(core, name) for name in ("resume_scheduler", "collective_rpc", "wake_up")}

    @functools.wraps(stock["resume_scheduler"])
    def resume_scheduler(self: Any) -> Any:
        if self.model_executor.is_sleeping:
            raise Refused("resume refused: the weights or the KV cache are not in memory; POST /wake_up first")
        return stock["resume_scheduler"](self)

    @functools.wraps(stock["collective_rpc"])
    def collective_rpc(self: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
        if method in ENGINE_ONLY:
            raise Refused(f"{method} refused as a worker's method: POST /sleep and /wake_up go by way of the engine")
        return stock["collective_rpc"](self, method, *args, **kwargs)

    @functools.wraps(stock["wake_up"])
    def wake_up(self: Any, tags: list[str] | None = None) -> Any:
        slept = self.model_executor.is_sleeping
        awake = stock["wake_up"](self, tags)
        if slept and awake:
            # Nothing that was cached before, or by a step that should not have been, is believed now.
            self.reset_prefix_cache()
        return awake

    for replacement in (resume_scheduler, collective_rpc, wake_up):
        setattr(core, replacement.__name__, replacement)
    core.gthread_guarded = True  # type: ignore[attr-defined]
