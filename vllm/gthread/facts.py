"""What shapes an image's bytes, as this worker sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import image_key

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def architecture(device_type: str) -> str:
    """Of the device that the bytes were made for: kernels choose layouts by it."""
    import platform

    import torch

    if device_type != "cuda":
        return f"{device_type}-{platform.machine()}"
    major, minor = torch.cuda.get_device_capability()
    return f"cuda-sm{major}{minor}"


def gather(config: VllmConfig, rank: int, device_type: str, packing: str) -> dict[str, object]:
    """Plain values, the same in every engine whose image has the same bytes."""
    import torch

    import vllm

    model, parallel = config.model_config, config.parallel_config
    speculative = config.speculative_config
    draft = None
    if speculative is not None and speculative.draft_model_config is not None:
        drafted = speculative.draft_model_config
        draft = [image_key.model_identity(drafted.model, drafted.revision), drafted.compute_hash(), str(speculative.method)]
    return {
        "model": image_key.model_identity(model.model, model.revision),
        # vLLM's own hash of what its computation depends on: dtype, quantisation, lengths, overrides.
        "configuration": model.compute_hash(),
        "dtype": str(model.dtype),
        "quantization": None if model.quantization is None else str(model.quantization),
        "draft": draft,
        "parallel": {
            "tensor": parallel.tensor_parallel_size,
            "pipeline": parallel.pipeline_parallel_size,
            "data": parallel.data_parallel_size,
            "expert": bool(parallel.enable_expert_parallel),
            # Experts are spread over data parallel ranks as well.
            "dataRank": parallel.data_parallel_rank,
            "rank": rank,
        },
        "loadFormat": str(config.load_config.load_format),
        "packing": packing,
        "architecture": architecture(device_type),
        "vllm": vllm.__version__,
        "torch": torch.__version__,
    }
