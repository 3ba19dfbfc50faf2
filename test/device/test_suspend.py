"""A CUDA checkpoint of a whole vLLM at level 1, by the driver that is here: what vLLM's own sleep leaves on the GPU goes, and comes
back. The GPU must be this test's alone, since it is measured as a whole: in a container nvidia-smi names no process. Not run yet:
no GPU was there when it was written. Where the driver offers no checkpoints, each test is skipped with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gthread import checkpoint

PROMPTS = ["hello world", "the quick brown fox jumps over", "a lazy dog " * 30]
FLAGS = ["--dtype", "float32", "--gpu-memory-utilization", "0.5"]
GTHREAD = ["--load-format", "gthread", "--worker-cls", "gthread.worker.GThreadWorker"]
DRIVER_BYTES_MAX = 64 * 1024**2  # what the driver itself may hold more of once a process has been there


def used_bytes() -> int:
    """Of GPU 0, whoever uses them."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1024**2


@pytest.fixture(scope="module", params=[FLAGS, [*FLAGS, *GTHREAD]], ids=["vllm", "gthread"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """One whose memory is registered with CUDA by vLLM alone, and one that has pinned the shared image (cudaHostRegister)."""
    import engine as engines

    make = engines.REPOSITORY / "hack/vllm/make_model.py"
    command = [sys.executable, str(make), "--gigabytes", "4", "--dtype", "float32"]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    env = {"GREENTHREAD_IMAGE_DIR": "/dev/shm/gthread-device-suspend"}
    folder = tmp_path_factory.mktemp("suspend")
    before = used_bytes()
    begun = engines.Engine(folder, "suspend", Path(made), request.param, env, python=Path(sys.executable), eager=False)
    begun.wait()
    answer = checkpoint.perform("suspend", checkpoint.descendants(os.getpid()), 1)
    if answer["outcome"] == "not-offered":
        begun.stop()
        pytest.skip(f"{answer['reason']}: {answer['message']}")
    assert answer["outcome"] == "done", answer
    assert timed("resume") >= 0
    begun.before_bytes = before
    yield begun
    begun.stop()


def timed(operation: str) -> float:
    """Seconds of it, as the launcher runs it: two Pythons and cuInit included."""
    since = time.perf_counter()
    answer = checkpoint.perform(operation, checkpoint.descendants(os.getpid()), 1)
    assert answer == {"outcome": "done", "reason": "", "message": ""}
    return time.perf_counter() - since


def test_nothing_is_left_on_the_gpu_and_answers_stay_the_same(engine) -> None:
    answers = [engine.complete(prompt) for prompt in PROMPTS]
    for _ in range(3):
        engine.sleep(1)
        asleep = used_bytes()
        suspend = timed("suspend")
        suspended = used_bytes()
        resume = timed("resume")
        wake = engine.wake()
        assert [engine.complete(prompt) for prompt in PROMPTS] == answers
        # A sleeping engine keeps its context at least: else something else was measured.
        assert asleep > engine.before_bytes + DRIVER_BYTES_MAX
        assert suspended <= engine.before_bytes + DRIVER_BYTES_MAX
        left = f"{engine.before_bytes >> 20} MiB before the boot, {asleep >> 20} at level 1, {suspended >> 20} suspended"
        print(f"{left}; suspend {suspend:.2f} s, resume {resume:.2f} s, wake {wake:.2f} s")


def test_streams_go_on_over_a_suspend(engine) -> None:
    from engine import Streams

    undisturbed = Streams(engine, PROMPTS, 200).join()
    streams = Streams(engine, PROMPTS, 200)
    streams.wait_for(10)
    engine.sleep(1)
    timed("suspend")
    timed("resume")
    engine.wake()
    assert streams.join() == undisturbed


def test_questions_are_answered_while_suspended(engine) -> None:
    """What the agent and the sidecar ask of a sleeper needs no GPU."""
    engine.sleep(1)
    timed("suspend")
    try:
        for path in ("/health", "/is_sleeping", "/v1/models", "/metrics"):
            assert engine.call("GET", path)[0] == 200
    finally:
        timed("resume")
        engine.wake()
