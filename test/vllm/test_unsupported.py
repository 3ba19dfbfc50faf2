"""The entry points against the installed vLLM, as it is and as if it were of another release."""

from __future__ import annotations

import os
import subprocess

import pytest
from engine import PYTHON, REPOSITORY

ASK = """
import vllm, gthread
vllm.__version__ = {version!r}
gthread.register()
from vllm.config import LoadConfig
from vllm.device_allocator.sleep_mode_backend import SleepModeBackendFactory
from vllm.model_executor.model_loader import get_model_loader
print("backend", "gthread" in SleepModeBackendFactory._registry, "platform", gthread.platform_class())
print(type(get_model_loader(LoadConfig(load_format="gthread"))).__name__)
"""


def ask(version: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "vllm"), "VLLM_NO_USAGE_STATS": "1"}
    command = ["nice", "-n", "10", str(PYTHON), "-c", ASK.format(version=version)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


def test_a_known_release_gets_backend_loader_and_platform() -> None:
    done = ask("0.32.0+cpu")
    assert "backend True platform gthread.cpu_platform.GThreadCpuPlatform" in done.stdout, done.stderr
    assert "GThreadLoader" in done.stdout


@pytest.mark.parametrize("version", ["0.33.0", "1.0.0"])
def test_another_release_is_left_alone_and_says_why(version: str) -> None:
    done = ask(version)
    assert "backend False platform None" in done.stdout, done.stderr
    assert done.returncode != 0
    assert f"gthread supports vLLM 0.32.x; this is {version}" in done.stderr
