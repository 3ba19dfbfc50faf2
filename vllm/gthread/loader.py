"""The model loader `gthread`: from an image, if one is there; else from the gthread form, staged or on disk; else as vLLM loads.

An image holds parameters after vLLM's post-processing. A model may start from it only where that leaves nothing behind but
tensors: without quantisation and without a draft model.
"""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from collections.abc import Generator
from typing import TYPE_CHECKING

import torch
from vllm.logger import init_logger
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.utils import process_weights_after_loading
from vllm.model_executor.utils import weights_already_processed
from vllm.platforms import current_platform
from vllm.utils.torch_utils import set_default_torch_dtype

from . import facts, image_file, image_key, plain_gemm, tensors, weights_source
from .places import Places, SettingError, read_places
from .tensors import SAFETENSORS_DTYPES

if TYPE_CHECKING:
    from torch import nn
    from vllm.config import LoadConfig, ModelConfig, VllmConfig

logger = init_logger("vllm.gthread")

WORKER = "gthread.worker.GThreadWorker"


class ImageUnfit(Exception):
    """This image is not of this model as it is made here; the text says why."""


class GThreadLoader(DefaultModelLoader):
    def __init__(self, load_config: LoadConfig) -> None:
        # vLLM's own loader asks for the format of the files: it finds that out.
        super().__init__(dataclasses.replace(load_config, load_format="auto"))
        self._places: Places = read_places(os.environ)
        self._main: ModelConfig | None = None
        self._takes_whole = False

    def load_model(self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = "") -> nn.Module:
        """@raises SettingError when this vLLM was started without our worker"""
        self._choose_backend(vllm_config)
        # A draft model's weights are not in the form.
        self._main = vllm_config.model_config
        # A rank takes its part of most, and its experts alone.
        parallel = vllm_config.parallel_config
        self._takes_whole = parallel.world_size == 1 and not parallel.enable_expert_parallel
        started = time.perf_counter()
        model = self._from_image(vllm_config, model_config, prefix)
        source = "an image"
        if model is None:
            model = super().load_model(vllm_config, model_config, prefix)
            source = "weights"
        logger.info("gthread: model loaded from %s in %.3f s", source, time.perf_counter() - started)
        return model

    def _choose_backend(self, config: VllmConfig) -> None:
        """The worker resolves the backend's name when it first needs it: after this, or on a CPU by the platform's choice."""
        if not config.model_config.enable_sleep_mode:
            return
        if config.parallel_config.worker_cls != WORKER:
            raise SettingError(
                f"--load-format gthread with --enable-sleep-mode needs --worker-cls {WORKER}: "
                "without its guard a step could run on missing weights"
            )
        if config.parallel_config.enable_eplb:
            raise SettingError("--enable-eplb moves experts' weights while they serve; gthread's are an image: leave one out")
        config.model_config.sleep_mode_backend = "gthread"

    # -- from an image

    def _from_image(self, config: VllmConfig, model_config: ModelConfig, prefix: str) -> nn.Module | None:
        """None: there is none, or it does not fit."""
        if model_config is not config.model_config or model_config.quantization is not None:
            return None
        if config.speculative_config is not None:
            return None
        device = config.device_config.device_type
        rank = config.parallel_config.rank
        given = facts.gather(config, rank, device, plain_gemm.PACKING if device == "cpu" else "stock")
        folders = (self._places.shared_images, self._places.own_images)
        for path in image_file.find_by_key(folders, image_key.key_of(given)):
            try:
                return self._build(config, model_config, prefix, path)
            except (ImageUnfit, ValueError, OSError) as error:
                logger.warning("gthread: not loaded from %s: %s", path, error)
        return None

    def _build(self, config: VllmConfig, model_config: ModelConfig, prefix: str, path: os.PathLike[str]) -> nn.Module:
        from pathlib import Path

        image = image_file.open_image(Path(path))
        target = torch.device(self.load_config.device or config.device_config.device)
        if current_platform.is_cpu():
            plain_gemm.install()
        with set_default_torch_dtype(model_config.dtype):
            with target:
                model = self.create_model(vllm_config=config, model_config=model_config, prefix=prefix)
            _fill(model, image, target.type)
            with weights_already_processed():
                process_weights_after_loading(model, model_config, target)
        layout, _ = tensors.layout_of(tensors.collect(model, None, target.type))
        if layout.fingerprint_text() != image.layout.fingerprint_text():
            raise ImageUnfit("its tensors lie otherwise than this model's")
        image.unmap_pages()
        return model.eval()

    # -- from the gthread form

    def get_all_weights(self, model_config: ModelConfig, model: nn.Module) -> Generator[tuple[str, torch.Tensor], None, None]:
        form = self._places.form
        # A model that names its files itself wants others than the form was made of.
        if form is None or model_config is not self._main or getattr(model, "allow_patterns_overrides", None) is not None:
            yield from super().get_all_weights(model_config, model)
            return
        if not form.is_dir():
            logger.warning("gthread: %s is not there (conversion writes it): upstream files are read instead", form)
            yield from super().get_all_weights(model_config, model)
            return
        self.counter_before_loading_weights = time.perf_counter()
        unused = getattr(model, "is_unused_checkpoint_weight", None)
        manifest = weights_source.read_manifest(form)
        given = weights_source.tensors(
            form,
            self._places.staged,
            manifest,
            logger.info,
            wanted=lambda name: unused is None or not unused(name),
            whole=self._takes_whole,
        )
        for tensor, data in given:
            yield tensor.name, _as_tensor(tensor.dtype, tensor.shape, data)
        for source in getattr(model, "secondary_weights", ()):
            yield from self._get_weights_iterator(source)


def _as_tensor(dtype: str, shape: tuple[int, ...], data: memoryview) -> torch.Tensor:
    """A view, without a copy. @raises ValueError for a dtype that torch has no tensors of"""
    known = SAFETENSORS_DTYPES.get(dtype)
    if known is None:
        raise ValueError(f"weights of dtype {dtype} cannot be loaded from the gthread form: set spec.loadFormat: auto")
    if not data:
        return torch.empty(shape, dtype=known)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a view of the pool is read-only, as checkpoints' tensors are to those who load them
        return torch.frombuffer(data, dtype=torch.uint8).view(known).view(shape)


@torch.no_grad()
def _fill(model: nn.Module, image: image_file.Image, device_type: str) -> None:
    """Before post-processing: its tensors have the image's shapes already, or the image is unfit."""
    places = {tensor.name: (storage, tensor) for storage in image.layout.storages for tensor in storage.tensors}
    missing = set(places)
    for storage in tensors.collect(model, None, device_type):
        for place, tensor in zip(storage.places, storage.tensors, strict=True):
            found = places.get(place.name)
            if found is None:
                raise ImageUnfit(f"it lacks {place.name}")
            source, at = found
            if (at.shape, at.dtype) != (place.shape, place.dtype):
                raise ImageUnfit(f"{place.name} is {at.dtype}{list(at.shape)} there, {place.dtype}{list(place.shape)} here")
            tensor.data.copy_(tensors.typed_view(tensors.bytes_tensor(image.address(source), source.bytes), at))
            missing.discard(place.name)
    if missing:
        raise ImageUnfit(f"it has {min(missing)}, which this model lacks")
