"""vLLM's CPU platform, with a sleep mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.platforms.cpu import CpuPlatform

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class GThreadCpuPlatform(CpuPlatform):
    def is_sleep_mode_available(self) -> bool:
        return True

    @classmethod
    def check_and_update_config(cls, vllm_config: VllmConfig) -> None:
        model = vllm_config.model_config
        if model is not None and model.enable_sleep_mode:
            # There is no flag for the backend; the configuration travels to the engine's processes as it is set here.
            if model.sleep_mode_backend == "cumem":
                model.sleep_mode_backend = "gthread"
            if vllm_config.parallel_config.worker_cls == "auto":
                vllm_config.parallel_config.worker_cls = "gthread.worker.GThreadWorker"
        super().check_and_update_config(vllm_config)
