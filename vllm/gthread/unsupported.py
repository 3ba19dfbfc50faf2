"""The loader `gthread` on a release of vLLM that we do not know: it says so."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.model_loader.base_loader import BaseModelLoader

import vllm

from .versions import require_supported


class UnsupportedLoader(BaseModelLoader):
    def __init__(self, load_config: Any) -> None:
        require_supported(vllm.__version__)
        super().__init__(load_config)

    def download_model(self, model_config: Any) -> None:
        require_supported(vllm.__version__)

    def load_weights(self, model: Any, model_config: Any) -> None:
        require_supported(vllm.__version__)
