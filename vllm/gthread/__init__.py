"""GreenThread's plug-in for vLLM: the sleep backend and the model loader `gthread`, and a CPU platform that can sleep.

vLLM finds it by the entry points in the .dist-info folder beside this one and calls both in each of its processes. Nothing is
imported here that a process without vLLM lacks.
"""

from __future__ import annotations

__version__ = "0.1.0"


def platform_class() -> str | None:
    """Entry point vllm.platform_plugins: takes over where vLLM itself would be on its CPU platform."""
    from vllm.platforms import cpu_platform_plugin

    import vllm

    from .versions import is_supported

    if not is_supported(vllm.__version__) or cpu_platform_plugin() != "vllm.platforms.cpu.CpuPlatform":
        return None
    return "gthread.cpu_platform.GThreadCpuPlatform"


def register() -> None:
    """Entry point vllm.general_plugins. On a release that we do not know, vLLM stays as it is, and asking for `gthread`
    says why it cannot be had."""
    from vllm.logger import init_logger
    from vllm.model_executor.model_loader import register_model_loader

    import vllm

    from .versions import SUPPORTED_TEXT, is_supported

    if not is_supported(vllm.__version__):
        from .unsupported import UnsupportedLoader

        register_model_loader("gthread")(UnsupportedLoader)
        message = "gthread supports vLLM %s, this is %s: the plug-in keeps out of it"
        init_logger("vllm.gthread").warning(message, SUPPORTED_TEXT, vllm.__version__)
        return
    from vllm.device_allocator.sleep_mode_backend import SleepModeBackendFactory
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.executor.abstract import Executor

    from . import engine_guard
    from .loader import GThreadLoader

    if "gthread" not in SleepModeBackendFactory._registry:
        SleepModeBackendFactory.register_backend("gthread", "gthread.backend", "GThreadBackend")
        register_model_loader("gthread")(GThreadLoader)
    engine_guard.install(EngineCore)
    engine_guard.install_executor(Executor)
