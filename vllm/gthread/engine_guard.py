"""Guards vLLM's engine core: what would run on missing weights is refused before it reaches the worker, and a sleep is one of all
its workers or of none.

The worker's own guard (worker.py) is the last line: it makes a step fail, and with it the engine. Here a wrong call is answered
with an error and the engine lives on. vLLM has no hook for it, so its methods are wrapped; versions.py says for which releases.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

logger = logging.getLogger("vllm.gthread")

# Worker methods that only the engine itself may call: past it, the scheduler would not know that memory is gone.
ENGINE_ONLY = frozenset({"sleep", "wake_up", "discard"})


# vLLM's v1/executor/abstract.py.
SLEEP_TAGS = frozenset({"weights", "kv_cache"})


class Refused(RuntimeError):
    """Answered to the caller; nothing happened, or it was undone."""


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


def install_executor(executor: type) -> None:
    """@param executor vllm.v1.executor.abstract.Executor, or a class with its methods. A second call does nothing.

    vLLM notes a sleep only when every worker has slept: after one that failed in a part of them, its /wake_up would reach none and
    let the scheduler run. So whatever slept is brought back first, by whichever backend.
    """
    if getattr(executor, "gthread_guarded", False):
        return
    stock = executor.sleep  # type: ignore[attr-defined]

    @functools.wraps(stock)
    def sleep(self: Any, level: int = 1) -> None:
        if "weights" in self.sleeping_tags:
            return stock(self, level)
        refusals = _ask(self, "sleep", level=level)
        if not refusals:
            self.sleeping_tags |= SLEEP_TAGS
            return None
        left = _ask(self, "wake_up", tags=None)
        if left:
            # Now the scheduler stays where it is, and the next /wake_up reaches the workers.
            self.sleeping_tags |= SLEEP_TAGS
            raise Refused(f"sleep failed: {refusals}; nor could all be brought back: {left}; POST /wake_up tries again")
        raise Refused(f"sleep failed: {refusals}; every worker has its memory back")

    executor.sleep = sleep  # type: ignore[attr-defined]
    executor.gthread_guarded = True  # type: ignore[attr-defined]


def _ask(executor: Any, method: str, **arguments: object) -> str:
    """@returns the refusals by worker; empty when all did it"""
    answers = executor.collective_rpc(_answer, args=(method, arguments))
    return ", ".join(f"worker {number}: {answer}" for number, answer in enumerate(answers) if answer is not None)


def _answer(worker: Any, method: str, arguments: dict[str, object]) -> str | None:
    """In the worker. Answered, not raised: vLLM stops reading answers at the first error, and takes those behind it for the next
    call's (v1/executor/multiproc_executor.py)."""
    try:
        getattr(worker, method)(**arguments)
    except Exception as error:
        logger.exception("gthread: %s failed", method)
        return f"{type(error).__name__}: {error}"
    return None
