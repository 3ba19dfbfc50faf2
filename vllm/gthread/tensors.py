"""A model's tensors by the storages that they lie in."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from .image_layout import Layout, TensorPlace, plan
from .manifest import DTYPES

DRAFT_PREFIX = "draft."

SAFETENSORS_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, torch_name) for name, (_, torch_name) in DTYPES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass
class Storage:
    """One storage and all of the model's tensors in it."""

    address: int
    bytes: int
    places: list[TensorPlace] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)
    objects: set[int] = field(default_factory=set)
    """Identities of the tensors: a tied one has two names."""

    @property
    def frees(self) -> bool:
        return all(place.kind == "parameter" for place in self.places)

    def use_count(self) -> int:
        """How many tensors lie in it, those that we do not know included."""
        storage = self.tensors[0].untyped_storage()
        return int(torch._C._storage_Use_Count(storage._cdata)) - 1  # the handle itself


def _named_tensors(model: nn.Module, prefix: str) -> Iterator[tuple[str, str, torch.Tensor]]:
    for name, parameter in model.named_parameters(remove_duplicate=False):
        yield f"{prefix}{name}", "parameter", parameter
    for name, buffer in model.named_buffers(remove_duplicate=False):
        yield f"{prefix}{name}", "buffer", buffer


def collect(model: nn.Module, draft: nn.Module | None, device_type: str) -> list[Storage]:
    """Storages on that kind of device, in the model's order. What has no storage of its own (a wrapper, a sparse tensor) is left
    out: it is neither freed nor restored by name."""
    found: dict[int, Storage] = {}
    models = [("", model)] + ([(DRAFT_PREFIX, draft)] if draft is not None else [])
    for prefix, part in models:
        for name, kind, tensor in _named_tensors(part, prefix):
            if tensor.device.type != device_type or tensor.layout is not torch.strided:
                continue
            try:
                storage = tensor.untyped_storage()
                address, size = storage.data_ptr(), storage.nbytes()
            except (NotImplementedError, RuntimeError):
                continue
            if size == 0 or address == 0:
                continue
            place = TensorPlace(
                name, kind, dtype_name(tensor.dtype), tuple(tensor.shape), tuple(tensor.stride()), tensor.storage_offset()
            )
            entry = found.setdefault(address, Storage(address, size))
            entry.places.append(place)
            entry.tensors.append(tensor)
            entry.objects.add(id(tensor))
    return list(found.values())


def layout_of(storages: list[Storage]) -> tuple[Layout, list[Storage]]:
    """@returns the layout, and the storages in its order"""
    layout = plan((storage.bytes, tuple(storage.places)) for storage in storages)
    by_name = {storage.places[0].name: storage for storage in storages}
    return layout, [by_name[place.tensors[0].name] for place in layout.storages]


def bytes_tensor(address: int, length: int) -> torch.Tensor:
    """Memory of ours as a tensor with a storage of its own. The memory must outlive it."""
    from .memory import view_of

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a read-only mapping: nothing writes to a weight
        return torch.frombuffer(view_of(address, length), dtype=torch.uint8)


def typed_view(raw: torch.Tensor, place: TensorPlace) -> torch.Tensor:
    """The tensor at its place in a storage of bytes."""
    typed = raw.view(getattr(torch, place.dtype))
    return typed.as_strided(place.shape, place.stride, place.storage_offset)
