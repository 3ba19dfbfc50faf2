"""CUDA checkpoints by the driver's own API, for `sleep.level: suspend`: what a process still holds on its GPU goes to host memory.

    python3 -IS checkpoint.py suspend|resume PID GPUS

PID is the launcher, whose descendants are the engine's processes; GPUS is how many the engine has. One JSON line comes out:
{"outcome": "done" | "not-offered" | "failed" | "broken", "reason": ..., "message": ...}. `not-offered` and `failed` leave every
process as it was; `broken`: the driver has lost one. Each operation runs in a process of its own that can be killed, since a call
into the driver may hang. Python 3.9, standard library only, nothing of gthread's: it runs beside the engine, not in it.

Sources: CUDA Driver API 13 (docs.nvidia.com), "CUDA Checkpointing": states, order of the calls, arguments optional but for the
lock's timeout, after which the process runs on; a restore needs cuInit in the caller or persistence mode. NVIDIA/cuda-checkpoint,
README and issues 27, 56 (IPC memory is refused before driver 610), 34 (PyTorch on 570), 51 (aarch64). NVIDIA Dynamo, "Snapshotting
GPU Workers": vLLM from driver 580 on, x86_64. Over several processes all are locked before any is checkpointed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable

LIBRARY = "libcuda.so.1"
DRIVER_VERSION_MIN = 13000  # cuDriverGetVersion of driver 580
LOCK_MS_MAX = 10_000  # for work that was submitted already; asleep at level 1 there is none
SUSPEND_SECONDS_MAX = (
    25.0  # context and graphs of a vLLM at level 1 are 1 to 3 GiB; a full H100 was measured at 15 s (cuda-checkpoint#29)
)
RESUME_SECONDS_MAX = 40.0
KILLED_SECONDS_MAX = 2.0  # one in the driver may not be killable
RECOVER_SECONDS_MAX = 12.0  # after a suspend that failed: with it within what the launcher waits
PROCESSES_MAX = 256  # below one launcher; vLLM on one GPU has three or four
CALLS = ("Lock", "Checkpoint", "Restore", "Unlock", "GetState")

RUNNING, LOCKED, CHECKPOINTED, FAILED = range(4)  # CUprocessState; later drivers have more, which are under way
STATES = {RUNNING: "running", LOCKED: "locked", CHECKPOINTED: "checkpointed", FAILED: "failed"}
SUCCESS, INVALID_VALUE, NOT_INITIALIZED, NOT_PERMITTED, NOT_SUPPORTED = 0, 1, 3, 800, 801  # CUresult


class Refused(Exception):
    """An outcome other than done."""

    def __init__(self, outcome: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.answer = {"outcome": outcome, "reason": reason, "message": message}


def not_offered(reason: str, message: str) -> Refused:
    return Refused("not-offered", reason, message)


class LockArgs(ctypes.Structure):
    """CUcheckpointLockArgs, 64 bytes."""

    _fields_ = (("timeout_ms", ctypes.c_uint), ("reserved0", ctypes.c_uint), ("reserved1", ctypes.c_uint64 * 7))


class DriverError(Exception):
    def __init__(self, call: str, pid: int, code: int, name: str) -> None:
        super().__init__(f"{call} of process {pid}: {name} ({code})")
        self.code = code


class Driver:
    """@raises Refused why checkpoints are not offered here"""

    def __init__(self) -> None:
        if platform.machine() != "x86_64":
            raise not_offered("NotX86", f"NVIDIA's driver checkpoints on x86_64 only, this is {platform.machine()}")
        try:
            self.library = ctypes.CDLL(LIBRARY)
        except OSError:
            raise not_offered(
                "NoCudaDriver",
                f"{LIBRARY} cannot be loaded in the engine's container: it comes from an NVIDIA driver on the node, by the NVIDIA "
                "Container Toolkit, where NVIDIA_DRIVER_CAPABILITIES has compute",
            ) from None
        version = ctypes.c_int(0)
        self.library.cuDriverGetVersion(ctypes.byref(version))
        missing = [call for call in CALLS if not hasattr(self.library, f"cuCheckpointProcess{call}")]
        if missing or version.value < DRIVER_VERSION_MIN:
            has = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
            lacks = f" and lacks cuCheckpointProcess{missing[0]}" if missing else ""
            raise not_offered(
                "DriverTooOld", f"the node's driver offers {has}{lacks}: vLLM can be checkpointed from driver 580 (CUDA 13.0) on"
            )
        code = self.library.cuInit(0)
        if code != SUCCESS:
            raise not_offered(
                "NoCudaDevice", f"the CUDA driver does not start in the engine's container: {self.name(code)} ({code})"
            )

    def name(self, code: int) -> str:
        text = ctypes.c_char_p()
        if self.library.cuGetErrorName(code, ctypes.byref(text)) != SUCCESS or text.value is None:
            return "an unknown error"
        return text.value.decode("ascii", "replace")

    def call(self, call: str, pid: int, argument: object = None) -> None:
        """@raises DriverError"""
        code = getattr(self.library, f"cuCheckpointProcess{call}")(pid, argument)
        if code != SUCCESS:
            raise DriverError(call, pid, code, self.name(code))

    def state(self, pid: int) -> int:
        """@raises DriverError also for a process without CUDA"""
        state = ctypes.c_int(-1)
        self.call("GetState", pid, ctypes.byref(state))
        return state.value


def descendants(root: int) -> list[int]:
    """Of a process, by /proc, without this one and its parent; parents first."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                parents[int(name)] = int(stat.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it ended while we looked
    found, ours = [root], {os.getpid(), os.getppid()} - {root}
    for pid in found:
        found += sorted(child for child, parent in parents.items() if parent == pid and child not in ours)
    return found[1 : PROCESSES_MAX + 1]


def cuda_processes(driver: Driver, pids: list[int]) -> dict[int, int]:
    """Those of the engine that the driver knows, with their states. @raises Refused when it knows none, and why"""
    found, refusals = {}, []
    for pid in pids:
        try:
            found[pid] = driver.state(pid)
        except DriverError as error:
            refusals.append(error)
    if any(error.code == NOT_PERMITTED for error in refusals):
        raise not_offered("NotPermitted", f"the driver refuses: {refusals[0]}. {rights()}")
    if not found:
        told = f"; {refusals[0]}" if refusals else ""
        raise not_offered(
            "NoCudaProcess", f"none of the engine's {len(pids)} processes uses CUDA, as far as the driver tells{told}"
        )
    return found


def rights() -> str:
    """What may stand between two processes of one user."""
    facts = []
    for path, what in (
        ("/proc/sys/kernel/yama/ptrace_scope", "kernel.yama.ptrace_scope is"),
        ("/proc/self/status", "seccomp mode is"),
    ):
        try:
            with open(path) as file:
                text = file.read()
            value = next((line.split()[1] for line in text.splitlines() if line.startswith("Seccomp:")), text.strip())
            facts.append(f"{what} {value}")
        except (OSError, IndexError):
            continue  # a kernel without it
    return f"The engine's processes must be this user's and its container may not hinder it ({', '.join(facts) or 'nothing known'})"


def raise_if_lost(states: dict[int, int]) -> None:
    """@raises Refused when the driver has given a process up"""
    gone = [pid for pid, state in states.items() if state == FAILED]
    if gone:
        raise Refused(
            "broken", "CheckpointBroken", f"the CUDA driver has lost the state of process {gone[0]}: only a new engine helps"
        )


def bring_back(driver: Driver, pids: list[int]) -> dict[int, int]:
    """Each to running, as far as the driver can: all restored before any is unlocked. @raises DriverError, Refused"""
    for wanted, call in ((CHECKPOINTED, "Restore"), (LOCKED, "Unlock")):
        for pid in pids:
            if driver.state(pid) == wanted:
                driver.call(call, pid)
    states = {pid: driver.state(pid) for pid in pids}
    raise_if_lost(states)
    return states


def settle(driver: Driver, pids: list[int], error: Exception) -> Refused:
    """What a suspend that failed leads to: everything runs again, or it is lost."""
    try:
        states = bring_back(driver, pids)
    except DriverError as second:
        return Refused("broken", "CheckpointBroken", f"{error}; and it cannot be taken back: {second}")
    except Refused as refused:
        return Refused("broken", "CheckpointBroken", f"{error}; {refused}")
    left = [pid for pid, state in states.items() if state != RUNNING]
    if left:
        return Refused("broken", "CheckpointBroken", f"{error}; process {left[0]} stays {STATES.get(states[left[0]], 'under way')}")
    code = error.code if isinstance(error, DriverError) else None
    if code == NOT_SUPPORTED:
        return not_offered(
            "NotSupported",
            f"the driver cannot checkpoint this engine: {error}. Managed (UVM) memory and memory shared by CUDA IPC are such",
        )
    if code == NOT_PERMITTED:
        return not_offered("NotPermitted", f"the driver refuses: {error}. {rights()}")
    return Refused("failed", "CheckpointFailed", str(error))


def suspend(driver: Driver, pids: list[int]) -> None:
    """All locked, then all checkpointed. @raises Refused; all is as before but for `broken`"""
    states = cuda_processes(driver, pids)
    raise_if_lost(states)
    try:
        for pid, state in states.items():
            if state == RUNNING:
                driver.call("Lock", pid, ctypes.byref(LockArgs(timeout_ms=LOCK_MS_MAX)))
        for pid in states:
            if driver.state(pid) == LOCKED:
                driver.call("Checkpoint", pid)
        after = {pid: driver.state(pid) for pid in states}
        open_ones = [pid for pid, state in after.items() if state != CHECKPOINTED]
        if open_ones:
            raise RuntimeError(f"process {open_ones[0]} is {STATES.get(after[open_ones[0]], 'under way')} after its checkpoint")
    except (DriverError, RuntimeError) as error:
        raise settle(driver, list(states), error) from error


def resume(driver: Driver, pids: list[int]) -> None:
    """@raises Refused `failed`: still suspended, it may be tried again"""
    states = cuda_processes(driver, pids)
    raise_if_lost(states)
    try:
        after = bring_back(driver, list(states))
    except DriverError as error:
        raise_if_lost({pid: driver.state(pid) for pid in states})
        raise Refused("failed", "RestoreFailed", str(error)) from error
    left = [pid for pid, state in after.items() if state != RUNNING]
    if left:
        raise Refused(
            "failed", "RestoreFailed", f"process {left[0]} is {STATES.get(after[left[0]], 'under way')} after its restore"
        )


def answer_of(operation: Callable[[], None]) -> dict[str, str]:
    try:
        operation()
    except Refused as refused:
        return refused.answer
    except DriverError as error:
        return Refused("failed", "CheckpointFailed", str(error)).answer
    return {"outcome": "done", "reason": "", "message": ""}


def in_a_process(operation: str, pids: list[int], seconds: float) -> dict[str, str] | None:
    """One operation in a process that can be killed. @returns None when it gave no answer"""
    command = [sys.executable, "-IS", os.path.abspath(__file__), "--now", operation, *map(str, pids)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        output, _ = process.communicate(timeout=seconds)
        answer = json.loads(output)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILLED_SECONDS_MAX)
        return None
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def perform(operation: str, pids: list[int], gpus: int) -> dict[str, str]:
    """Within the times above, whatever the driver does."""
    if gpus != 1:
        return not_offered(
            "SeveralGpus",
            f"this engine uses {gpus} GPUs: its processes share memory (CUDA IPC, NCCL), which drivers before 610 do not "
            "checkpoint and later ones only for a job that starts as one; suspend is offered for one GPU a replica",
        ).answer
    answer = in_a_process(operation, pids, SUSPEND_SECONDS_MAX if operation == "suspend" else RESUME_SECONDS_MAX)
    if answer is not None:
        return answer
    silent = f"the driver gave no answer to {operation}"
    if operation == "resume":
        return Refused("failed", "RestoreFailed", f"{silent} within {RESUME_SECONDS_MAX:.0f} s").answer
    back = in_a_process("resume", pids, RECOVER_SECONDS_MAX)
    if back is not None and back.get("outcome") == "done":
        return Refused("failed", "CheckpointFailed", f"{silent} within {SUSPEND_SECONDS_MAX:.0f} s; taken back").answer
    return Refused("broken", "CheckpointBroken", f"{silent}, nor to taking it back").answer


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--now"]:
        operation = {"suspend": suspend, "resume": resume}[arguments[1]]
        answer = answer_of(lambda: operation(Driver(), [int(pid) for pid in arguments[2:]]))
    else:
        answer = perform(arguments[0], descendants(int(arguments[1])), int(arguments[2]))
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
