"""A model's memory on a CPU, with torch and without an engine: what moves, what stays, that all of it comes back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "vllm"))

from gthread import cpu_memory, image_file, memory, tensors  # noqa: E402
from gthread.sleep_cycle import SleepCycle  # noqa: E402

BOTH = frozenset({"weights", "kv_cache"})


class Model(torch.nn.Module):
    """A tied pair, a transposed parameter, two parameters in one storage, a buffer, a scalar, an empty one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(300, 200, bias=True)
        self.head = torch.nn.Linear(300, 200, bias=False)
        self.head.weight = self.embed.weight
        self.turned = torch.nn.Parameter(torch.randn(64, 1000).t())
        whole = torch.randn(2, 5000, dtype=torch.bfloat16)
        self.left, self.right = torch.nn.Parameter(whole[0]), torch.nn.Parameter(whole[1])
        self.register_buffer("table", torch.randn(1000))
        self.scale = torch.nn.Parameter(torch.tensor(3.0))
        self.none = torch.nn.Parameter(torch.empty(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model().eval()


def attach(model, folder: Path, map_weights: bool, kv=list):
    layout, storages = tensors.layout_of(tensors.collect(model, None, "cpu"))
    path = image_file.write_image(folder, "k-l.image", layout, {}, cpu_memory.read_storage(storages))
    return cpu_memory.CpuMemory(image_file.open_image(path), storages, map_weights, kv)


def content(model) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("map_weights", [False, True])
def test_everything_is_there_before_and_after_a_sleep(model, tmp_path: Path, map_weights: bool) -> None:
    before = content(model)
    strides = {name: parameter.stride() for name, parameter in model.named_parameters()}
    cycle = SleepCycle(attach(model, tmp_path, map_weights))
    assert same(before, content(model))
    for _ in range(2):
        cycle.suspend()
        cycle.resume()
        assert same(before, content(model))
    assert {name: parameter.stride() for name, parameter in model.named_parameters()} == strides
    assert model.head.weight is model.embed.weight
    assert model.left.data_ptr() + 2 * 5000 == model.right.data_ptr()


def test_asleep_the_parameters_are_gone_and_the_buffers_are_not(model, tmp_path: Path) -> None:
    table = model.table.clone()
    kept = attach(model, tmp_path, map_weights=False)
    kept.drop(BOTH)
    assert not model.embed.weight.any()
    assert not model.right.any()
    assert torch.equal(model.table, table)


def test_a_changed_buffer_stays_changed(model, tmp_path: Path) -> None:
    cycle = SleepCycle(attach(model, tmp_path, map_weights=False))
    model.table += 1
    table = model.table.clone()
    cycle.suspend()
    cycle.resume()
    assert torch.equal(model.table, table)


@pytest.mark.parametrize("map_weights", [False, True])
def test_a_parameter_that_somebody_else_looks_into_is_filled_where_it_is(model, tmp_path: Path, map_weights: bool) -> None:
    view = model.embed.weight.detach()[3:]
    before, seen = content(model), view.clone()
    kept = attach(model, tmp_path, map_weights)
    assert kept.in_place_storages == 1
    assert model.embed.weight.data_ptr() == view.data_ptr() - 3 * 300 * 4
    cycle = SleepCycle(kept)
    cycle.suspend()
    cycle.resume()
    assert same(before, content(model))
    assert torch.equal(view, seen)


def test_the_cache_is_freed_and_reads_as_zeroes(model, tmp_path: Path) -> None:
    cache = torch.ones(8 * 1024 * 1024, dtype=torch.uint8)

    class Layer:
        kv_cache = cache

    kept = attach(model, tmp_path, False, lambda: cpu_memory.kv_storages({"a": Layer(), "b": Layer(), "c": object()}))
    kept.drop(frozenset({"kv_cache"}))
    assert int(cache.sum()) < 3 * memory.PAGE_BYTES
    assert model.embed.weight.any()


def test_a_layout_knows_what_differs(model) -> None:
    def text(changed) -> str:
        return tensors.layout_of(tensors.collect(changed, None, "cpu"))[0].fingerprint_text()

    assert text(model) == text(Model())
    assert text(model) != text(Model().to(torch.bfloat16))
    untied = Model()
    untied.head.weight = torch.nn.Parameter(untied.head.weight.detach().clone())
    assert text(model) != text(untied)
