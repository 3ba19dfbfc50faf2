"""The loader, boot after boot in one folder of images: it takes one that fits, and no image ends a boot that would do without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from engine import PYTHON, REPOSITORY

HERE = REPOSITORY / "test" / "vllm"


def run(program: str, argument: str) -> str:
    """@returns its stdout"""
    fixed = {"PYTHONPATH": str(REPOSITORY / "vllm"), "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    env = {**os.environ, **fixed, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    command = ["nice", "-n", "10", str(PYTHON), str(HERE / program), argument]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    sys.stderr.write(done.stderr)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def boots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("boots")
    run("small_models.py", str(folder))
    llama = {"model": str(folder / "llama"), "images": str(folder / "llama-images")}
    mixtral = {"model": str(folder / "mixtral"), "images": str(folder / "mixtral-images")}
    asked = {
        "first": llama,
        "second": llama,
        "first with LoRA": {**llama, "lora": True},
        "second with LoRA": {**llama, "lora": True},
        "beside LoRA's image": llama,
        "offloaded": {**llama, "offload": True},
        "broken": {**llama, "breaks": True},
        "first of experts": mixtral,
        "second of experts": mixtral,
    }
    answers = [json.loads(line) for line in run("boots.py", json.dumps(list(asked.values()))).splitlines()]
    return dict(zip(asked, answers, strict=True))


def source(boot: dict[str, Any]) -> str:
    [line] = [line for line in boot["said"] if "model loaded from" in line]
    return line.split("model loaded from ")[1].split(" in ")[0]


def says(boot: dict[str, Any], text: str) -> bool:
    return any(text in line for line in boot["said"])


def test_every_boot_of_a_model_has_its_weights(boots: dict[str, dict[str, Any]]) -> None:
    of = {name: boot["digest"] for name, boot in boots.items()}
    assert len({digest for name, digest in of.items() if "experts" not in name}) == 1
    assert of["first of experts"] == of["second of experts"] != of["first"]


def test_the_second_boot_takes_the_image_of_the_first(boots: dict[str, dict[str, Any]]) -> None:
    assert source(boots["first"]) == "weights"
    assert source(boots["second"]) == "an image"
    assert boots["second"]["image"] == boots["first"]["image"]


def test_with_lora_no_image_is_tried_and_all_its_engines_sleep_by_one(boots: dict[str, dict[str, Any]]) -> None:
    first, second = boots["first with LoRA"], boots["second with LoRA"]
    assert source(first) == source(second) == "weights"
    assert says(second, "LoRA")
    assert second["image"] == first["image"] != boots["first"]["image"]


def test_an_image_of_other_tensors_is_passed_over(boots: dict[str, dict[str, Any]]) -> None:
    assert source(boots["beside LoRA's image"]) == "an image"
    assert boots["beside LoRA's image"]["image"] == boots["first"]["image"]


def test_with_an_offload_no_image_is_tried(boots: dict[str, dict[str, Any]]) -> None:
    assert source(boots["offloaded"]) == "weights"
    assert says(boots["offloaded"], "offload")


def test_post_processing_that_fails_leaves_a_boot_from_weights(boots: dict[str, dict[str, Any]]) -> None:
    assert says(boots["broken"], "post-processing broke")
    assert source(boots["broken"]) == "weights"


def test_experts_that_post_processing_pads_are_loaded_from_weights(boots: dict[str, dict[str, Any]]) -> None:
    second = boots["second of experts"]
    assert says(second, "w13_weight is bfloat16")
    assert source(second) == "weights"
    assert second["image"] == boots["first of experts"]["image"]


def test_vllm_knows_each_layer_once_and_the_right_one(boots: dict[str, dict[str, Any]]) -> None:
    for name, boot in boots.items():
        kind = "first of experts" if "experts" in name else "first"
        assert boot["layers"] == boots[kind]["layers"]
        assert boot["moeLayers"] == boots[kind]["moeLayers"]
        assert boot["own"], name
    assert len(boots["second of experts"]["moeLayers"]) == 1
