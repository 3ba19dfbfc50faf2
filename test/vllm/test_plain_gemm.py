"""What CPU linears multiply by, on vLLM's own dispatch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "vllm"))

import torch
from gthread import plain_gemm
from vllm.model_executor.layers import utils
from vllm.model_executor.utils import weights_already_processed


@pytest.fixture
def dispatch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """gthread's, on a vLLM whose convolutions are packed, as on a CPU that multiplies bfloat16."""

    def stock(layer: SimpleNamespace, remove_weight: bool) -> None:
        layer.weight = layer.weight.clone()

    monkeypatch.setattr(utils, "dispatch_cpu_unquantized_gemm", stock)
    plain_gemm.install()
    return utils.dispatch_cpu_unquantized_gemm


def test_a_linear_keeps_its_weight(dispatch) -> None:
    layer = SimpleNamespace(weight=torch.ones(2, 3))
    address = layer.weight.data_ptr()
    dispatch(layer, True)
    assert layer.weight.data_ptr() == address
    assert layer.cpu_linear is torch.nn.functional.linear


def test_what_an_image_has_packed_is_not_packed_again(dispatch) -> None:
    layer = SimpleNamespace(weight=torch.ones(2, 1, 4))
    dispatch(layer, True)
    with weights_already_processed(), pytest.raises(RuntimeError, match="packed again"):
        dispatch(layer, True)
