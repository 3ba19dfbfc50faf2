"""CPU: linears that read their weight where it lies.

vLLM moves each linear's weight into an opaque handler of oneDNN or a packed copy in a closure, and leaves an empty parameter
behind: nothing of it could be freed or shared. With this, they multiply by the parameter itself (about a tenth slower at batch
size 1). Packing is in the image's key.
"""

from __future__ import annotations

from typing import Any

PACKING = "plain"


def install() -> None:
    """In the worker's process, before a model is made; whatever loader makes it."""
    import torch
    from vllm.model_executor.layers import utils
    from vllm.model_executor.utils import is_weights_pre_processed

    stock = utils.dispatch_cpu_unquantized_gemm
    if getattr(stock, "gthread", False):
        return

    def plain(layer: Any, remove_weight: bool) -> None:
        if layer.weight.is_meta or layer.weight.ndim != 2:
            before = layer.weight.data_ptr()
            stock(layer, remove_weight)  # convolutions: their packed weight is a parameter again
            if is_weights_pre_processed() and layer.weight.data_ptr() != before:
                raise RuntimeError("a convolution's weight, packed already, was packed again")
        else:
            layer.cpu_linear = torch.nn.functional.linear

    plain.gthread = True  # type: ignore[attr-defined]
    utils.dispatch_cpu_unquantized_gemm = plain
