"""A whole vLLM on the GPU with --load-format gthread: the same rules as on a CPU (test/vllm)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROMPTS = ["hello world", "the quick brown fox jumps over", "a lazy dog " * 30]


def used_bytes() -> int:
    """Of GPU 0, whoever uses them."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1024**2


@pytest.fixture(scope="module", params=[[], ["--enforce-eager"]], ids=["compiled", "eager"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    import engine as engines

    make = engines.REPOSITORY / "hack/vllm/make_model.py"
    command = [sys.executable, str(make), "--gigabytes", "4", "--dtype", "float32"]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    flags = [
        "--dtype",
        "float32",
        "--load-format",
        "gthread",
        "--worker-cls",
        "gthread.worker.GThreadWorker",
        "--gpu-memory-utilization",
        "0.5",
    ]
    folder = tmp_path_factory.mktemp("gpu")
    env = {"GREENTHREAD_IMAGE_DIR": "/dev/shm/gthread-device-test"}
    begun = engines.Engine(folder, "gpu", Path(made), [*flags, *request.param], env, python=Path(sys.executable), eager=False)
    yield begun.wait()
    begun.stop()


def test_greedy_answers_and_memory_over_sleeps(engine) -> None:
    answers = [engine.complete(prompt) for prompt in PROMPTS]
    for level in (1, 2, 1):
        awake = used_bytes()
        http_sleep = engine.sleep(level)
        asleep = used_bytes()
        http_wake = engine.wake()
        stats = engine.stats()
        assert awake - asleep >= stats["weightsBytes"]
        assert [engine.complete(prompt) for prompt in PROMPTS] == answers
        print(f"level {level}: sleep {http_sleep:.3f} s, wake {http_wake:.3f} s by HTTP; {stats['last']}")


def test_streams_go_on_over_a_sleep(engine) -> None:
    from engine import Streams

    undisturbed = Streams(engine, PROMPTS, 200).join()
    streams = Streams(engine, PROMPTS, 200)
    streams.wait_for(10)
    engine.sleep()
    engine.wake()
    assert streams.join() == undisturbed


def test_both_traps_are_refused(engine) -> None:
    answer = engine.complete(PROMPTS[0])
    engine.sleep()
    assert engine.call("POST", "/resume")[0] == 500
    engine.wake()
    assert engine.rpc("sleep")[0] == 500
    assert engine.complete(PROMPTS[0]) == answer
