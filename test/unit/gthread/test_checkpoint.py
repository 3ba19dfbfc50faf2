"""Suspend and resume by the driver's API, against a libcuda that is compiled here: what is called in which order, and what becomes
of each process when a call fails or hangs. Whether a real driver behaves as this one: test/device/test_suspend.py."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gthread import checkpoint

COMPILER = shutil.which("cc")
SOURCE = Path(__file__).with_name("fake_libcuda.c")
pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C compiler (cc) for the stand-in of libcuda"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="checkpoints are offered on x86_64 only"),
]


def compiled(folder: Path, *flags: str) -> Path:
    folder.mkdir()
    assert COMPILER
    subprocess.run([COMPILER, "-shared", "-fPIC", *flags, "-o", str(folder / checkpoint.LIBRARY), str(SOURCE)], check=True)
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("cuda") / "lib")


class Node:
    """What the driver knows, and processes that it could know."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def process(self, state: int | None = checkpoint.RUNNING) -> int:
        process = subprocess.Popen(["sleep", "600"])
        self.processes.append(process)
        if state is not None:
            self.set(str(process.pid), state)
        return process.pid

    def set(self, name: str, value: object) -> None:
        (self.folder / name).write_text(str(value))

    def states(self, *pids: int) -> list[int]:
        return [int((self.folder / str(pid)).read_text()) for pid in pids]

    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def node(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setenv("FAKE_CUDA", str(tmp_path))
    monkeypatch.setattr(checkpoint, "SUSPEND_SECONDS_MAX", 5.0)
    made = Node(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def test_all_are_locked_before_any_is_checkpointed_and_restored_before_any_is_unlocked(node: Node) -> None:
    first, second, other = node.process(), node.process(), node.process(None)
    assert checkpoint.perform("suspend", [other, first, second], 1) == {"outcome": "done", "reason": "", "message": ""}
    assert node.states(first, second) == [checkpoint.CHECKPOINTED] * 2
    assert checkpoint.perform("resume", [other, first, second], 1)["outcome"] == "done"
    assert node.states(first, second) == [checkpoint.RUNNING] * 2
    assert node.calls() == [f"{call} {pid}" for call in ("Lock", "Checkpoint", "Restore", "Unlock") for pid in (first, second)]


def test_what_an_operation_that_was_killed_left_is_finished_by_the_next(node: Node) -> None:
    locked, gone = node.process(checkpoint.LOCKED), node.process(checkpoint.CHECKPOINTED)
    assert checkpoint.perform("suspend", [locked, gone], 1)["outcome"] == "done"
    assert node.calls() == [f"Checkpoint {locked}"]
    assert checkpoint.perform("suspend", [locked, gone], 1)["outcome"] == "done"
    node.set(str(locked), checkpoint.LOCKED)
    assert checkpoint.perform("resume", [locked, gone], 1)["outcome"] == "done"
    assert checkpoint.perform("resume", [locked, gone], 1)["outcome"] == "done"
    assert node.states(locked, gone) == [checkpoint.RUNNING] * 2
    assert node.calls()[1:] == [f"Restore {gone}", f"Unlock {locked}", f"Unlock {gone}"]


@pytest.mark.parametrize(
    ("call", "code", "outcome", "reason", "says"),
    [
        ("Lock", 600, "failed", "CheckpointFailed", "CUDA_ERROR_NOT_READY"),
        ("Checkpoint", 2, "failed", "CheckpointFailed", "CUDA_ERROR_OUT_OF_MEMORY"),
        ("Checkpoint", 801, "not-offered", "NotSupported", "UVM"),
        ("Lock", 800, "not-offered", "NotPermitted", "seccomp mode"),
    ],
)
def test_a_suspend_that_fails_at_one_process_leaves_both_running(
    node: Node, call: str, code: int, outcome: str, reason: str, says: str
) -> None:
    first, second = node.process(), node.process()
    node.set(f"fail-{call}-{second}", code)
    answer = checkpoint.perform("suspend", [first, second], 1)
    assert (answer["outcome"], answer["reason"]) == (outcome, reason)
    assert says in answer["message"]
    assert node.states(first, second) == [checkpoint.RUNNING] * 2


@pytest.mark.parametrize(
    "faults", [{"Checkpoint-2": 999}, {"Checkpoint-2": 2, "Restore-1": 2}, {"Checkpoint-2": 2, "Unlock-2": 401}]
)
def test_a_suspend_that_cannot_be_taken_back_is_broken(node: Node, faults: dict[str, int]) -> None:
    pids = [node.process(), node.process()]
    for name, code in faults.items():
        call, which = name.split("-")
        node.set(f"fail-{call}-{pids[int(which) - 1]}", code)
    answer = checkpoint.perform("suspend", pids, 1)
    assert (answer["outcome"], answer["reason"]) == ("broken", "CheckpointBroken")


def test_a_restore_without_room_leaves_it_suspended_to_be_tried_again(node: Node) -> None:
    pid = node.process(checkpoint.CHECKPOINTED)
    node.set("fail-Restore", 2)
    answer = checkpoint.perform("resume", [pid], 1)
    assert (answer["outcome"], answer["reason"]) == ("failed", "RestoreFailed")
    assert "CUDA_ERROR_OUT_OF_MEMORY" in answer["message"]
    assert node.states(pid) == [checkpoint.CHECKPOINTED]
    (node.folder / "fail-Restore").unlink()
    assert checkpoint.perform("resume", [pid], 1)["outcome"] == "done"


@pytest.mark.parametrize("operation", ["suspend", "resume"])
def test_a_process_that_the_driver_has_lost_is_broken_and_left_alone(node: Node, operation: str) -> None:
    lost, well = node.process(checkpoint.FAILED), node.process()
    assert checkpoint.perform(operation, [lost, well], 1)["outcome"] == "broken"
    assert node.calls() == []


def test_a_restore_that_loses_the_process_is_broken(node: Node) -> None:
    pid = node.process(checkpoint.CHECKPOINTED)
    node.set("fail-Restore", 999)
    assert checkpoint.perform("resume", [pid], 1)["outcome"] == "broken"


def test_a_checkpoint_that_hangs_is_killed_and_taken_back(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    # Long enough for a Python to start on busy cores: what hangs is the driver's call.
    monkeypatch.setattr(checkpoint, "SUSPEND_SECONDS_MAX", 4.0)
    pid = node.process()
    node.set("fail-Checkpoint", "hang")
    answer = checkpoint.perform("suspend", [pid], 1)
    assert (answer["outcome"], answer["reason"]) == ("failed", "CheckpointFailed")
    assert node.states(pid) == [checkpoint.RUNNING]
    assert node.calls() == [f"Lock {pid}", f"Checkpoint {pid}", f"Unlock {pid}"]


def test_a_driver_that_hangs_altogether_ends_in_broken_within_the_time(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SUSPEND_SECONDS_MAX", 0.4)
    monkeypatch.setattr(checkpoint, "RECOVER_SECONDS_MAX", 0.4)
    node.set("fail-Init", "hang")
    assert checkpoint.perform("suspend", [node.process()], 1)["outcome"] == "broken"


def test_a_restore_that_hangs_is_a_failure(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "RESUME_SECONDS_MAX", 0.4)
    node.set("fail-Restore", "hang")
    answer = checkpoint.perform("resume", [node.process(checkpoint.CHECKPOINTED)], 1)
    assert (answer["outcome"], answer["reason"]) == ("failed", "RestoreFailed")


@pytest.mark.parametrize(
    ("fault", "reason", "remedy"),
    [
        ({"version": 12080}, "DriverTooOld", "580"),
        ({"fail-Init": 100}, "NoCudaDevice", "CUDA_ERROR_NO_DEVICE"),
        ({"fail-GetState": 800}, "NotPermitted", "this user's"),
    ],
)
def test_where_it_is_not_offered_it_says_why_and_calls_nothing(node: Node, fault: dict[str, int], reason: str, remedy: str) -> None:
    pid = node.process()
    for name, value in fault.items():
        node.set(name, value)
    answer = checkpoint.perform("suspend", [pid], 1)
    assert (answer["outcome"], answer["reason"]) == ("not-offered", reason)
    assert remedy in answer["message"]
    assert node.calls() == []


def test_an_engine_that_uses_no_cuda_is_not_offered_it(node: Node) -> None:
    answer = checkpoint.perform("suspend", [node.process(None), node.process(None)], 1)
    assert (answer["outcome"], answer["reason"]) == ("not-offered", "NoCudaProcess")
    assert "2 processes" in answer["message"]


@pytest.mark.parametrize("gpus", [0, 2, 8])
def test_only_engines_on_one_gpu_are_offered_it(node: Node, gpus: int) -> None:
    answer = checkpoint.perform("suspend", [node.process()], gpus)
    assert (answer["outcome"], answer["reason"]) == ("not-offered", "SeveralGpus")
    assert f"{gpus} GPUs" in answer["message"]


def test_a_driver_without_the_calls_is_too_old(node: Node, tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> None:
    old = compiled(tmp_path_factory.mktemp("old") / "lib", "-DWITHOUT_CHECKPOINTS")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(old))
    answer = checkpoint.perform("suspend", [node.process()], 1)
    assert answer["reason"] == "DriverTooOld"
    assert "lacks cuCheckpointProcessLock" in answer["message"]


def test_without_a_driver_it_says_where_it_comes_from(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    if checkpoint.in_a_process("resume", [], 5.0) not in (None, {}) and Path("/dev/nvidiactl").exists():
        pytest.skip("there is a driver here")
    answer = checkpoint.perform("suspend", [node.process()], 1)
    assert (answer["outcome"], answer["reason"]) == ("not-offered", "NoCudaDriver")
    assert "NVIDIA_DRIVER_CAPABILITIES" in answer["message"]


def test_the_launchers_descendants_are_the_engines_without_those_who_ask(node: Node, tmp_path: Path) -> None:
    """As the launcher runs it: two generations below one process, one of them without CUDA."""
    script = "sleep 600 & sh -c 'sleep 600 & wait' & echo up; read line"
    launcher = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    node.processes.append(launcher)
    assert launcher.stdout
    assert launcher.stdout.readline() == b"up\n"
    below = checkpoint.descendants(launcher.pid)
    while len(below) < 3:
        below = checkpoint.descendants(launcher.pid)
    try:
        for pid in below:
            node.set(str(pid), checkpoint.RUNNING)
        command = [sys.executable, "-IS", checkpoint.__file__, "suspend", str(launcher.pid), "1"]
        run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        assert json.loads(run.stdout)["outcome"] == "done"
        assert node.states(*below) == [checkpoint.CHECKPOINTED] * 3
        assert len(node.calls()) == 6
    finally:
        os.killpg(launcher.pid, 9)
    own = checkpoint.descendants(os.getpid())
    assert os.getpid() not in own
