"""What the loader refuses at the start: settings that it could not keep."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "vllm"))

from gthread.loader import WORKER, GThreadLoader
from gthread.places import SettingError
from vllm.config import ModelConfig, ParallelConfig


def chosen(worker: str = WORKER, sleeps: bool = True, eplb: bool = False, graphs: bool = False) -> str:
    """@returns the sleep backend that the worker will use"""
    model = SimpleNamespace(enable_sleep_mode=sleeps, sleep_mode_backend="cumem", sleep_mode_offload_cudagraph=graphs)
    parallel = SimpleNamespace(worker_cls=worker, enable_eplb=eplb)
    object.__new__(GThreadLoader)._choose_backend(SimpleNamespace(model_config=model, parallel_config=parallel))
    return model.sleep_mode_backend


def test_the_backend_is_gthreads_where_it_sleeps() -> None:
    assert chosen() == "gthread"
    assert chosen(sleeps=False, worker="auto", eplb=True, graphs=True) == "cumem"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"worker": "auto"}, f"--worker-cls {WORKER}"),
        ({"eplb": True}, "--enable-eplb"),
        ({"graphs": True}, "--sleep-mode-offload-cudagraph"),
    ],
)
def test_what_it_could_not_keep_is_refused_by_its_flag(setting: dict, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        chosen(**setting)


def test_the_settings_are_this_vllms() -> None:
    assert {"sleep_mode_offload_cudagraph", "sleep_mode_backend"} <= set(ModelConfig.__dataclass_fields__)
    assert {"enable_eplb", "worker_cls"} <= set(ParallelConfig.__dataclass_fields__)
