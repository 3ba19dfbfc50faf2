"""The model loader `gthread`: from an image, if one is there; else from the gthread form, staged or on disk; else as vLLM loads.

An image holds parameters after vLLM's post-processing. A model may start from it only where that leaves nothing behind but
tensors: without quantisation and without a draft model; nor with LoRA, whose layers are wrapped after loading, nor with an
offload to the host. The model is made before it is compared with an image, and vLLM registers layers by name as it makes them:
one that no image fits is loaded as it stands, never made twice.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import time
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from vllm.logger import init_logger
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.utils import process_weights_after_loading
from vllm.model_executor.offloader.base import NoopOffloader, get_offloader
from vllm.model_executor.utils import weights_already_processed
from vllm.platforms import current_platform
from vllm.utils.torch_utils import set_default_torch_dtype

from . import facts, image_file, image_key, plain_gemm, tensors, weights_source
from .image_layout import Layout
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
        self._made: nn.Module | None = None

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
        if config.model_config.sleep_mode_offload_cudagraph:
            # By the backend's name, which vLLM reads when it captures graphs (config/vllm.py): it would do nothing.
            raise SettingError("--sleep-mode-offload-cudagraph is vLLM's own backend's, gthread keeps CUDA graphs: leave one out")
        config.model_config.sleep_mode_backend = "gthread"

    def create_model(self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = "") -> nn.Module:
        """The one that no image fitted, as it was made."""
        made, self._made = self._made, None
        if made is not None:
            return made
        return super().create_model(vllm_config=vllm_config, model_config=model_config, prefix=prefix)

    # -- from an image

    def _from_image(self, config: VllmConfig, model_config: ModelConfig, prefix: str) -> nn.Module | None:
        """None: there is none, or it does not fit."""
        paths = self._images(config, model_config)
        if not paths:
            return None
        target = torch.device(self.load_config.device or config.device_config.device)
        registered = _Registered(config)
        if current_platform.is_cpu():
            plain_gemm.install()
        with set_default_torch_dtype(model_config.dtype):
            with target:
                self._made = self.create_model(config, model_config, prefix)
            image = _fitting(self._made, paths, target.type)
            if image is None:
                return None
            model, self._made = self._made, None
            try:
                return _from(image, model, model_config, target)
            except Exception as error:  # of vLLM's post-processing, whatever it is
                logger.warning("gthread: not loaded from %s, the model is made again: %s", image.path, error)
        del model
        registered.restore()
        # Its layers know each other: memory for a second model is there when those of the first are gone.
        gc.collect()
        torch.accelerator.empty_cache()
        return None

    def _images(self, config: VllmConfig, model_config: ModelConfig) -> list[Path]:
        """Of this model; which of them fits is not known yet."""
        if model_config is not config.model_config or model_config.quantization is not None:
            return []
        if config.speculative_config is not None:
            return []
        device = config.device_config.device_type
        given = facts.gather(config, config.parallel_config.rank, device, plain_gemm.PACKING if device == "cpu" else "stock")
        paths = image_file.find_by_key((self._places.shared_images, self._places.own_images), image_key.key_of(given))
        if paths and config.lora_config is not None:
            logger.info("gthread: no image is loaded: LoRA wraps layers after loading")
            return []
        if paths and not isinstance(get_offloader(), NoopOffloader):
            logger.info("gthread: no image is loaded: an offload moves parameters to the host while the model is made")
            return []
        return paths

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
    """A view, without a copy."""
    known = SAFETENSORS_DTYPES[dtype]  # the manifest was believed, so it has no other
    if not data:
        return torch.empty(shape, dtype=known)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a view of the pool is read-only, as checkpoints' tensors are to those who load them
        return torch.frombuffer(data, dtype=torch.uint8).view(known).view(shape)


class _Registered:
    """What vLLM knows of layers by their names, as it is now (config/compilation.py): a name given twice ends the boot."""

    def __init__(self, config: VllmConfig) -> None:
        compilation = config.compilation_config
        self._layers, self._experts = compilation.static_forward_context, compilation.static_all_moe_layers
        self._before = dict(self._layers), list(self._experts)

    def restore(self) -> None:
        layers, experts = self._before
        self._layers.clear()
        self._layers.update(layers)
        self._experts[:] = experts


def _fitting(model: nn.Module, paths: list[Path], device_type: str) -> image_file.Image | None:
    """The first image that has this model's tensors and its hashes. Nothing of the model has changed."""
    for path in paths:
        try:
            _compare(model, image_file.read_layout(path), device_type)
            return image_file.open_image(path)
        except (ImageUnfit, ValueError, OSError) as error:
            logger.warning("gthread: not loaded from %s: %s", path, error)
    return None


def _compare(model: nn.Module, layout: Layout, device_type: str) -> None:
    """Before post-processing: its tensors have the image's shapes already, or the image is unfit. @raises ImageUnfit"""
    for name, module in model.named_modules():
        method = getattr(module, "quant_method", None)
        # vLLM refuses these itself, when it is too late for another way.
        if isinstance(method, QuantizeMethodBase) and not method.supports_pre_processed_weights:
            raise ImageUnfit(f"{type(method).__name__} of {name} leaves more than tensors")
    missing = {tensor.name: tensor for storage in layout.storages for tensor in storage.tensors}
    for storage in tensors.collect(model, None, device_type):
        for place in storage.places:
            at = missing.pop(place.name, None)
            if at is None:
                raise ImageUnfit(f"it lacks {place.name}")
            if (at.shape, at.dtype) != (place.shape, place.dtype):
                raise ImageUnfit(f"{place.name} is {at.dtype}{list(at.shape)} there, {place.dtype}{list(place.shape)} here")
    if missing:
        raise ImageUnfit(f"it has {min(missing)}, which this model lacks")


def _from(image: image_file.Image, model: nn.Module, model_config: ModelConfig, target: torch.device) -> nn.Module:
    """@raises ImageUnfit, and what vLLM's post-processing raises: the model is then neither this image's nor untouched"""
    _fill(model, image, target.type)
    with weights_already_processed():
        process_weights_after_loading(model, model_config, target)
    layout, _ = tensors.layout_of(tensors.collect(model, None, target.type))
    if layout.fingerprint_text() != image.layout.fingerprint_text():
        raise ImageUnfit("its tensors lie otherwise than this model's")
    image.unmap_pages()
    return model.eval()


@torch.no_grad()
def _fill(model: nn.Module, image: image_file.Image, device_type: str) -> None:
    places = {tensor.name: (storage, tensor) for storage in image.layout.storages for tensor in storage.tensors}
    for storage in tensors.collect(model, None, device_type):
        for place, tensor in zip(storage.places, storage.tensors, strict=True):
            source, at = places[place.name]
            tensor.data.copy_(tensors.typed_view(tensors.bytes_tensor(image.address(source), source.bytes), at))
