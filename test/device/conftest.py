"""Tests on a real GPU: hack/vllm/check.sh device, by a python3 that has vLLM with CUDA (inside vllm/vllm-openai, say). Elsewhere
each is skipped with its reason. None of them has run yet: no GPU was there when they were written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "vllm"), str(REPOSITORY / "test" / "vllm")]


def why_not() -> str | None:
    """Why nothing here can run; None when it can."""
    try:
        import torch
    except ImportError:
        return "no torch here: run it by the python3 of an image with vLLM"
    if not torch.cuda.is_available():
        return "no NVIDIA GPU here, or no driver"
    try:
        from vllm.device_allocator import cumem

        import vllm
    except ImportError as error:
        return f"no vLLM here: {error}"
    from gthread.versions import SUPPORTED_TEXT, is_supported

    if not is_supported(vllm.__version__):
        return f"vLLM here is {vllm.__version__}, gthread supports {SUPPORTED_TEXT}"
    return None if cumem.cumem_available else "vLLM here was built without its CUDA allocator"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    reason = why_not()
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))
