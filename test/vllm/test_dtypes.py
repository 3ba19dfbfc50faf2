"""Each dtype that the form may have is one that torch has tensors of, the same that vLLM's own loader gets of safetensors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "vllm"))

import torch
from gthread.manifest import DTYPES
from gthread.tensors import SAFETENSORS_DTYPES
from safetensors import safe_open
from safetensors.torch import save_file


@pytest.mark.parametrize("name", DTYPES)
def test_a_dtype_is_torchs(name: str, tmp_path: Path) -> None:
    dtype = SAFETENSORS_DTYPES[name]
    assert dtype.itemsize == DTYPES[name][0]
    file = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2 * dtype.itemsize, dtype=torch.uint8).view(dtype)}, file)
    assert f'"dtype":"{name}"'.encode() in file.read_bytes()
    with safe_open(file, framework="pt") as read:
        assert read.get_tensor("a").dtype == dtype
