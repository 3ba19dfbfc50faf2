"""Boots of the loader `gthread` one after the other in this process, as a worker makes them, with no engine around it. Run by
test_boots.py: argv[1] is a JSON list of boots, each of them gives one JSON line on stdout.

A boot is {"model": folder, "images": folder, "lora": bool, "offload": bool, "breaks": bool}; `breaks`: vLLM's post-processing of
an image's weights fails, once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
from typing import Any

import torch


def configuration(boot: dict[str, Any]) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    os.environ["GREENTHREAD_IMAGE_DIR"] = boot["images"]
    return EngineArgs(
        model=boot["model"],
        enable_sleep_mode=True,
        load_format="gthread",
        worker_cls="gthread.worker.GThreadWorker",
        enforce_eager=True,
        enable_lora=boot.get("lora", False),
        cpu_offload_gb=1 if boot.get("offload") else 0,
        max_model_len=256,
        max_num_seqs=4,
    ).create_engine_config()


def digest(model: torch.nn.Module) -> str:
    """Of every parameter's bytes, whatever LoRA calls them."""
    given = {name.replace(".base_layer.", "."): parameter for name, parameter in model.named_parameters()}
    hasher = hashlib.sha256()
    for name in sorted(given):
        hasher.update(name.encode())
        hasher.update(given[name].detach().contiguous().view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest()


def with_lora(model: torch.nn.Module, config: Any) -> torch.nn.Module:
    from vllm.v1.worker.lora_model_runner_mixin import LoRAModelRunnerMixin

    return type("Runner", (LoRAModelRunnerMixin,), {})().load_lora_model(model, config, torch.device("cpu"))


def boot_once(boot: dict[str, Any]) -> dict[str, Any]:
    from gthread import loader as loaders
    from gthread import plain_gemm
    from gthread.backend import GThreadBackend
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader import get_model_loader
    from vllm.model_executor.offloader.base import create_offloader, set_offloader

    config = configuration(boot)
    heard = Heard()
    # Now: vLLM sets its logging up anew while it makes a configuration.
    logging.getLogger("vllm.gthread").addHandler(heard)
    plain_gemm.install()
    stock = loaders.process_weights_after_loading

    def broken(*given: Any) -> None:
        loaders.process_weights_after_loading = stock
        stock(*given)
        raise RuntimeError("post-processing broke")

    if boot.get("breaks"):
        loaders.process_weights_after_loading = broken
    with set_current_vllm_config(config):
        set_offloader(create_offloader(config.offload_config))
        model = get_model_loader(config.load_config).load_model(config, config.model_config)
        if boot.get("lora"):
            model = with_lora(model, config)
        backend = GThreadBackend()
        backend.attach(model, None, config, 0)
    registered = config.compilation_config
    return {
        "said": heard.lines,
        "digest": digest(model),
        "image": backend.stats()["image"],
        "layers": sorted(registered.static_forward_context),
        "moeLayers": registered.static_all_moe_layers,
        # What the forward pass finds by name is this model's and not an abandoned one's.
        "own": set(map(id, registered.static_forward_context.values())) <= set(map(id, model.modules())),
    }


class Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def main() -> None:
    # The answers' own: vLLM logs to stdout.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import gthread
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment

    gthread.register()
    with tempfile.TemporaryDirectory() as folder, set_current_vllm_config(VllmConfig()):
        init_distributed_environment(1, 0, f"file://{folder}/store", 0, "gloo")
        ensure_model_parallel_initialized(1, 1)
    for boot in json.loads(sys.argv[1]):
        print(json.dumps(boot_once(boot)), file=answers, flush=True)


if __name__ == "__main__":
    main()
