#!/usr/bin/env python3
"""First process of the engine's container, for the container's whole life (see README.md beside this file).

    python3 launcher.py -- COMMAND [ARGUMENT ...]

It asks the node's agent for VRAM on grant.sock (words: proto/grant.ts), starts COMMAND under the grant, starts it
again under a new one when it ends, holds SIGTERM back until the pod's sidecar has drained, and reaps what the engine
leaves behind. One loop changes state; threads only copy output, ask /health and run nvidia-smi, and post an event.
Python 3.9 or newer, standard library only: it runs inside vLLM's image.
"""
from __future__ import annotations

import os
import signal

# Process 1 of a container gets no signal that it has no handler for: a SIGTERM that came while the rest is still loaded
# would be lost, and the pod would stay for its whole grace. Nothing runs yet, so it may end at once.
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

import ctypes
import datetime
import functools
import http.client
import json
import queue
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

PROTOCOL = 1
LINE_BYTES_MAX = 64 * 1024  # proto/grant.ts: a longer line closes the connection
LINES_PENDING_MAX = 64  # read from the agent, not handled yet
SEND_SECONDS_MAX = 2.0  # an agent that reads nothing for so long is dialled anew
TAIL_BYTES_MAX = 4 * 1024
REDIAL_SECONDS_MIN, REDIAL_SECONDS_MAX = 0.1, 1.0
RESTART_SECONDS_MIN, RESTART_SECONDS_MAX = 1.0, 60.0
HEALTHY_SECONDS = 600.0  # an engine that was ready for so long starts the count of quick failures anew
HEALTH_EVERY_SECONDS, HEALTH_TIMEOUT_SECONDS = 0.25, 2.0
STOP_SECONDS_DEFAULT = 20.0  # from SIGTERM to SIGKILL
LEFTOVERS_SECONDS_MAX = 10.0  # for killed processes to vanish; one in the driver may take longer, the agent measures
GRACE_SECONDS_DEFAULT = 30.0  # Kubernetes' own terminationGracePeriodSeconds
END_BEFORE_GRACE_SECONDS = 5.0  # without word from the agent the engine gets SIGTERM this long before the kubelet kills
KILL_BEFORE_GRACE_SECONDS = 1.0
SMI_SECONDS_MAX = 10.0  # one that hangs in the driver cannot even be killed
SMI_BYTES_MAX = 256 * 1024
CHECKPOINT_SECONDS_MAX = 45.0  # gthread/checkpoint.py keeps within 43; the agent waits for 50
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def log(level: str, message: str, **fields: Any) -> None:
    """One JSON object a line on stderr, as platform/log.ts writes it. Never the value of an environment variable."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = {"time": now, "level": level, "program": "launcher", "message": message, **fields}
    try:
        os.write(2, (json.dumps(line) + "\n").encode())
    except OSError:
        pass  # nobody reads the container's log any more; the engine matters more


class SettingError(Exception):
    """A wrong start; the text names the field and the remedy."""


@dataclass(frozen=True)
class Settings:
    pod_uid: str
    uuids: List[str]
    bytes: int
    pod_dir: str
    grace_seconds: float
    stop_seconds: float
    command: List[str]

    @property
    def grant_socket(self) -> str:
        return os.path.join(self.pod_dir, "grant.sock")

    @property
    def engine_socket(self) -> str:
        return os.path.join(self.pod_dir, "engine.sock")


def read_settings(arguments: List[str], env: Mapping[str, str]) -> Settings:
    """@raises SettingError naming the argument or variable that is wrong, never its value."""

    def seconds(name: str, default: float) -> float:
        try:
            value = float(env.get(name) or default)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1e6:
            raise SettingError(f"{name} must be a number of seconds")
        return value

    if len(arguments) < 2 or arguments[0] != "--":
        raise SettingError("no engine to start: write the engine's command after --, as in: launcher.py -- python3 -m ...")
    if not env.get("POD_UID"):
        raise SettingError("POD_UID is not set: set it by fieldRef metadata.uid")
    amount = env.get("GREENTHREAD_VRAM_BYTES", "")
    if not amount.isdigit():
        raise SettingError("GREENTHREAD_VRAM_BYTES must be set to a whole number of bytes for each GPU")
    if "GREENTHREAD_GPU_UUIDS" not in env:
        raise SettingError("GREENTHREAD_GPU_UUIDS is not set: set it to the pod's GPU UUIDs, comma-separated")
    return Settings(
        pod_uid=env["POD_UID"],
        uuids=[uuid.strip() for uuid in env["GREENTHREAD_GPU_UUIDS"].split(",") if uuid.strip()],
        bytes=int(amount),
        pod_dir=env.get("GREENTHREAD_POD_DIR") or "/run/greenthread/pod",
        grace_seconds=seconds("GREENTHREAD_GRACE_SECONDS", GRACE_SECONDS_DEFAULT),
        stop_seconds=seconds("GREENTHREAD_ENGINE_STOP_SECONDS", STOP_SECONDS_DEFAULT),
        command=arguments[1:],
    )


def engine_environment(env: Mapping[str, str]) -> Dict[str, str]:
    """With the plug-in, which lies beside this file, found first: what the image's own PYTHONPATH names stays found."""
    paths = [os.path.dirname(os.path.abspath(__file__)), *filter(None, [env.get("PYTHONPATH")])]
    return {**env, "PYTHONPATH": os.pathsep.join(paths)}


@dataclass
class RestartFloor:
    """The least time from an engine's end to the next ask, however fast the agent grants. Pure."""

    seconds: float = RESTART_SECONDS_MIN

    def after_end(self, ready_seconds: Optional[float], asked_for: bool) -> float:
        """@param ready_seconds how long it had been ready, None if never; @param asked_for the agent ended it.
        @returns seconds to wait; doubles from 1 to 60 until an engine was ready for 10 minutes."""
        if asked_for or (ready_seconds is not None and ready_seconds >= HEALTHY_SECONDS):
            self.seconds = RESTART_SECONDS_MIN
            return self.seconds
        wait = self.seconds
        self.seconds = min(self.seconds * 2, RESTART_SECONDS_MAX)
        return wait


class Tail:
    """The last bytes of what was written, for the report of an end. Shared by the copying threads."""

    def __init__(self) -> None:
        self._bytes = b""
        self._lock = threading.Lock()

    def add(self, chunk: bytes) -> None:
        with self._lock:
            self._bytes = (self._bytes + chunk[-TAIL_BYTES_MAX:])[-TAIL_BYTES_MAX:]

    def text(self) -> str:
        with self._lock:
            return self._bytes.decode("utf-8", "replace")


def copy_output(source: int, target: int, tail: Tail) -> None:
    """Copies until the last writer has closed. A full `target` slows the engine down, as it would without us."""
    try:
        while True:
            chunk = os.read(source, LINE_BYTES_MAX)
            if not chunk:
                return
            tail.add(chunk)
            while chunk:
                chunk = chunk[os.write(target, chunk):]
    except OSError:
        pass  # the container's log is gone; closing our end tells the engine
    finally:
        os.close(source)


def health_ok(path: str) -> bool:
    """Whether GET /health over the engine's Unix socket answers 200 within the timeout."""
    connection = http.client.HTTPConnection("localhost", timeout=HEALTH_TIMEOUT_SECONDS)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(HEALTH_TIMEOUT_SECONDS)
        connection.sock.connect(path)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def missing_gpus(uuids: List[str]) -> Optional[List[str]]:
    """The UUIDs that `nvidia-smi -L` does not list; None when it cannot be told. Only its output counts: its exit
    status may be reaped by the main loop."""
    program = shutil.which("nvidia-smi")
    if program is None or not uuids:
        return None
    process = subprocess.Popen([program, "-L"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    stopper = threading.Timer(SMI_SECONDS_MAX, process.kill)
    stopper.start()
    assert process.stdout is not None
    listed = set(re.findall(r"UUID: ([^\s)]+)", process.stdout.read(SMI_BYTES_MAX).decode("utf-8", "replace")))
    timed_out = not stopper.is_alive()
    stopper.cancel()
    process.stdout.close()
    return None if timed_out else [uuid for uuid in uuids if uuid not in listed]


def checkpoint(operation: str, gpus: int) -> Dict[str, str]:
    """Suspends or resumes what the engine holds on its GPU. The driver's library stays out of this process: it may hang or
    end it. @returns `outcome`, `reason`, `message` as gthread/checkpoint.py, which lies beside this file, has them"""
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gthread", "checkpoint.py")
    command = [sys.executable, "-IS", program, operation, str(os.getpid()), str(gpus)]
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        stopper = threading.Timer(CHECKPOINT_SECONDS_MAX, process.kill)
        stopper.start()
        assert process.stdout is not None
        with process.stdout as output:
            answer = json.loads(output.read(LINE_BYTES_MAX))
        stopper.cancel()
        return {key: str(answer[key])[:1000] for key in ("outcome", "reason", "message")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        # Of a suspend nobody knows how far it came, so that its engine could hang for ever.
        outcome = "broken" if operation == "suspend" else "failed"
        return {"outcome": outcome, "reason": "CheckpointSilent", "message": f"checkpoint.py gave no answer: {error!r}"}


REMEDY = (
    "The container runtime gave this container no such GPU: check that the pod runs with runtimeClassName nvidia, that "
    "accept-nvidia-visible-devices-envvar-when-unprivileged is true in the node's NVIDIA Container Toolkit "
    "(/etc/nvidia-container-runtime/config.toml), and that NVIDIA_DRIVER_CAPABILITIES has compute and utility."
)


def children() -> List[int]:
    """Processes whose parent we are: the engine, and what its dead parents left to us."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                if int(stat.read().rpartition(b")")[2].split()[1]) == os.getpid():
                    found.append(int(name))
        except (OSError, ValueError, IndexError):
            continue  # it ended while we looked
    return found


def kill_all(group: Optional[int]) -> List[int]:
    """SIGKILL to that process group, if given, and to every child of ours. @returns the children still there"""
    left = children()
    for kill, number in [(os.killpg, group or 0)] * (group is not None) + [(os.kill, pid) for pid in left]:
        try:
            kill(number, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # it has ended; what cannot be killed is reported when the time is over
    return left


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"  # a real-time signal


@dataclass
class Engine:
    """One started engine, until everything it started has ended."""

    process: "subprocess.Popen[bytes]"
    grant: str
    started: float
    tail: Tail
    copiers: List[threading.Thread]
    ready_at: Optional[float] = None
    ended: Optional[Tuple[Optional[int], Optional[str]]] = None  # exit code or signal's name
    kill_at: Optional[float] = None  # SIGTERM was sent; SIGKILL follows then
    give_up_at: float = 0.0  # until then its leftovers are being killed
    asked_for: bool = False  # the agent ended it
    suspended: bool = False  # its CUDA state is, or may be, in a checkpoint: a signal that it handles would wait for CUDA
    checkpointing: bool = False  # a suspend or resume is under way
    why_ended: Optional[Dict[str, str]] = None  # reason and message, where the launcher ended it by itself

    @property
    def pid(self) -> int:
        return self.process.pid


class Link:
    """The connection to the agent: a thread that dials for ever and posts what it reads; the loop sends."""

    def __init__(self, path: str, post: Callable[[Callable[[], None]], None]) -> None:
        self.path, self.post = path, post
        self.connected: Callable[[socket.socket], None] = lambda _: None
        self.line: Callable[[bytes], None] = lambda _: None
        self.lost: Callable[[str], None] = lambda _: None
        self.pending = threading.Semaphore(LINES_PENDING_MAX)

    def run(self) -> None:
        wait = REDIAL_SECONDS_MIN
        while True:
            if self._serve():
                wait = REDIAL_SECONDS_MIN
            time.sleep(wait)
            wait = min(wait * 2, REDIAL_SECONDS_MAX)

    def _serve(self) -> bool:
        """One connection from dial to end. @returns whether the agent said anything"""
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            return False
        try:
            limit = struct.pack("ll", int(SEND_SECONDS_MAX), 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            connection.connect(self.path)
        except OSError:
            connection.close()
            return False  # no agent there yet
        self.post(lambda: self.connected(connection))
        spoke, why = self._read(connection)
        self.post(lambda: self.lost(why))
        self.post(connection.close)
        return spoke

    def _read(self, connection: socket.socket) -> Tuple[bool, str]:
        """Until the end. @returns whether anything was said, and why it ended"""
        spoke, rest = False, b""
        while True:
            try:
                chunk = connection.recv(LINE_BYTES_MAX)
            except OSError as error:
                return spoke, error.strerror or "the connection failed"
            if not chunk:
                return spoke, "the connection was closed"
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if len(line) > LINE_BYTES_MAX:
                    return spoke, "a line was too long"
                spoke = True
                self.pending.acquire()
                self.post(functools.partial(self._handle, line))
            if len(rest) > LINE_BYTES_MAX:
                return spoke, "a line was too long"

    def _handle(self, line: bytes) -> None:
        self.pending.release()
        self.line(line)


class Launcher:
    """All state, changed by `run`'s thread alone."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.events: "queue.SimpleQueue[Callable[[], None]]" = queue.SimpleQueue()
        # Kept, or they would be closed with their last name.
        self.signal_pipe: Optional[Tuple[socket.socket, socket.socket]] = None
        self.timers: Dict[str, Tuple[float, Callable[[], None]]] = {}  # ask, start, smi, stop, end
        self.floor = RestartFloor()
        self.connection: Optional[socket.socket] = None
        self.engine: Optional[Engine] = None
        self.grant: Optional[str] = None  # held, engine not started yet
        self.checking = False  # nvidia-smi runs for that grant
        self.gpus_seen = False
        self.starts = 0
        self.not_before = 0.0  # no start earlier than this, whatever is granted
        self.ending_since: Optional[float] = None
        self.may_end = False  # drained, or the grace is nearly over
        self.done = False

    # -- the loop

    def run(self) -> None:
        """Until the pod ends; then this process may exit 0."""
        link = Link(self.settings.grant_socket, self.events.put)
        link.connected, link.line, link.lost = self._connected, self._line, self._lost
        self._listen_for_signals()
        threading.Thread(target=link.run, daemon=True).start()
        while not self.done:
            due = min((at for at, _ in self.timers.values()), default=None)
            try:
                self.events.get(timeout=None if due is None else max(0.0, due - time.monotonic()))()
            except queue.Empty:
                pass
            now = time.monotonic()
            for name, (at, action) in list(self.timers.items()):
                if at <= now and self.timers.get(name) == (at, action):
                    del self.timers[name]
                    action()

    def _listen_for_signals(self) -> None:
        """By a pipe that the interpreter writes to at once: a handler in Python runs only when the main thread next does
        something, and one that came just before `get` began to wait would lie there for as long as nothing else happens."""
        actions = {signal.SIGCHLD: self._reap, signal.SIGTERM: self._begin_ending, signal.SIGINT: self._begin_ending}
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self.signal_pipe = (reader, writer)

        def listen() -> None:
            while True:
                for number in reader.recv(64):
                    if number in actions:
                        self.events.put(actions[signal.Signals(number)])

        threading.Thread(target=listen, daemon=True).start()
        for number in actions:
            signal.signal(number, lambda *_: None)

    def _after(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        self.timers[name] = (time.monotonic() + seconds, action)

    # -- the agent

    def _connected(self, connection: socket.socket) -> None:
        log("info", "connected to the agent")
        self.connection = connection
        self.timers.pop("ask", None)
        engine = self.engine
        if engine is not None:
            ready, suspended = engine.ready_at is not None, engine.suspended
            self._say("holding", **self._wish(), id=engine.grant, pid=engine.pid, ready=ready, suspended=suspended)
        else:
            self._say("ask", **self._wish())
        if self.ending_since is not None:
            self._say("ending")

    def _lost(self, why: str) -> None:
        """The agent is gone: an engine goes on; a grant not used yet is void."""
        log("warn", "lost the agent, dialling again", reason=why)
        self.connection = self.grant = None
        self.timers.pop("start", None)

    def _wish(self) -> Dict[str, Any]:
        s = self.settings
        return {"podUid": s.pod_uid, "uuids": s.uuids, "bytes": s.bytes, "restarts": self.starts, "suspends": True}

    def _say(self, kind: str, **fields: Any) -> None:
        if self.connection is None:
            return
        try:
            self.connection.sendall((json.dumps({"v": PROTOCOL, "type": kind, **fields}) + "\n").encode())
        except OSError:
            try:
                self.connection.shutdown(socket.SHUT_RDWR)  # its reader then posts the loss
            except OSError:
                pass  # it is closed already
            self.connection = None

    def _line(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            kind = message["type"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return log("warn", "the agent sent a line that is not a message")
        why = {"reason": str(message.get("reason"))[:100], "detail": str(message.get("message"))[:500]}
        if kind == "wait":
            log("info", "waiting for VRAM", **why)
        elif kind == "grant":
            self._granted(message.get("id"))
        elif kind == "restart":
            log("warn", "the agent ends the engine", **why)
            self._restart()
        elif kind in ("suspend", "resume"):
            self._checkpoint(kind, message.get("call"))
        elif kind == "drained" and (self.ending_since is not None or self.engine is None):
            self._begin_ending()  # where SIGTERM came too early to be heard; the agent knows that the pod is deleted
            self._end()

    def _ask(self) -> None:
        if self.engine is None and self.grant is None and self.ending_since is None:
            self._say("ask", **self._wish())

    def _granted(self, grant: Any) -> None:
        if not isinstance(grant, str) or self.engine is not None or self.ending_since is not None:
            return log("warn", "a grant that was not asked for is not used")
        self.timers.pop("ask", None)
        if self.grant is None:
            self._after("start", max(0.0, self.not_before - time.monotonic()), self._check_gpus)
        self.grant = grant

    def _restart(self) -> None:
        if self.ending_since is not None:
            return
        if self.engine is not None:
            self.engine.asked_for = True
            self._stop(self.settings.stop_seconds)
        elif self.grant is not None:
            self.grant = None
            self.timers.pop("start", None)
            self._ask()

    # -- the engine's start

    def _check_gpus(self) -> None:
        """A runtime that refuses NVIDIA_VISIBLE_DEVICES starts the container without GPUs and says so only in its own
        log, so what nvidia-smi lists is compared before the first start."""
        if self.gpus_seen or not self.settings.uuids:
            return self._start()
        if self.checking:
            return
        self.checking = True

        def check() -> None:
            missing = missing_gpus(self.settings.uuids)
            self.events.put(lambda: self._gpus_checked(missing))

        threading.Thread(target=check, daemon=True).start()
        self._after("smi", SMI_SECONDS_MAX + 1, lambda: self._gpus_checked(None))

    def _gpus_checked(self, missing: Optional[List[str]]) -> None:
        if not self.checking:
            return  # it answered after its time was over
        self.checking = False
        self.timers.pop("smi", None)
        if missing:
            text = f"nvidia-smi in this container does not list {', '.join(missing)}. {REMEDY}"
            return self._not_started("GpuNotInjected", text) if self.grant is not None else None
        if missing is None:
            log("warn", "nvidia-smi is not in this container or did not answer: whether its GPUs are there is not known")
        self.gpus_seen = missing is not None
        self._start()

    def _not_started(self, reason: str, message: str, code: Optional[int] = None) -> None:
        self.grant = None
        log("error", "the engine was not started", reason=reason, detail=message)
        tail = f"{reason}: {message}"[:TAIL_BYTES_MAX]
        self._say("exited", code=code, signal=None, tail=tail, reason=reason, message=message)
        self._ask_after(self.floor.after_end(None, False))

    def _start(self) -> None:
        grant, self.grant = self.grant, None
        if grant is None or self.engine is not None or self.ending_since is not None:
            return
        command = self.settings.command
        try:
            os.unlink(self.settings.engine_socket)
        except FileNotFoundError:
            pass
        except OSError as error:
            return self._not_started("EngineSocketStuck", f"the old engine.sock cannot be removed: {error.strerror}")
        self.starts += 1
        try:
            pipe, devnull, env = subprocess.PIPE, subprocess.DEVNULL, engine_environment(os.environ)
            process = subprocess.Popen(command, stdin=devnull, stdout=pipe, stderr=pipe, start_new_session=True, env=env)
        except OSError as error:
            code = 127 if isinstance(error, FileNotFoundError) else 126  # as a shell reports them
            text = f"{command[0]} cannot be started: {error.strerror}. Check the engine's image (spec.vllmImage)."
            return self._not_started("EngineNotFound", text, code)
        tail = Tail()
        copiers = []
        for stream, target in ((process.stdout, 1), (process.stderr, 2)):
            assert stream is not None
            copiers.append(threading.Thread(target=copy_output, args=(os.dup(stream.fileno()), target, tail), daemon=True))
            stream.close()
            copiers[-1].start()
        self.engine = engine = Engine(process, grant, time.monotonic(), tail, copiers)
        log("info", "engine started", pid=engine.pid, restarts=self.starts - 1)
        self._say("started", pid=engine.pid)
        threading.Thread(target=self._watch_health, args=(engine,), daemon=True).start()

    def _watch_health(self, engine: Engine) -> None:
        """On its own thread. How long a boot may take is the agent's to say (`restart`)."""
        while self.engine is engine and engine.ended is None:
            if health_ok(self.settings.engine_socket):
                return self.events.put(lambda: self._ready(engine))
            time.sleep(HEALTH_EVERY_SECONDS)

    def _ready(self, engine: Engine) -> None:
        if self.engine is engine and engine.ended is None:
            engine.ready_at = time.monotonic()
            log("info", "engine is ready", bootSeconds=round(engine.ready_at - engine.started, 3))
            self._say("ready")

    # -- a sleeper's CUDA state

    def _checkpoint(self, operation: str, call: Any) -> None:
        """On a thread of its own: the loop goes on. The agent sends one at a time, to an engine that sleeps."""
        engine = self.engine
        if engine is None or engine.ready_at is None or engine.ended is not None or engine.kill_at is not None:
            why = "no engine of this container is ready"
        elif engine.checkpointing:
            why = "an earlier suspend or resume has not ended yet"
        elif engine.suspended == (operation == "suspend"):
            return self._say("checkpointed", call=call, operation=operation, outcome="done", reason="", message="")
        else:
            engine.checkpointing = engine.suspended = True  # suspended until the opposite is known

            def work(engine: Engine = engine) -> None:
                answer = checkpoint(operation, len(self.settings.uuids))
                self.events.put(lambda: self._checkpointed(engine, operation, call, answer))

            return threading.Thread(target=work, daemon=True).start()
        self._say("checkpointed", call=call, operation=operation, outcome="failed", reason="NotNow", message=why)

    def _checkpointed(self, engine: Engine, operation: str, call: Any, answer: Dict[str, str]) -> None:
        if engine.kill_at is not None or engine.ended is not None:
            answer = {"outcome": "failed", "reason": "EngineEnds", "message": f"the engine was ended during its {operation}"}
        done = answer["outcome"] == "done"
        engine.checkpointing = False
        engine.suspended = done if operation == "suspend" else not done
        log("info" if done else "warn", f"{operation}: {answer['outcome']}", reason=answer["reason"], detail=answer["message"])
        self._say("checkpointed", call=call, operation=operation, **answer)
        if answer["outcome"] == "broken":
            engine.suspended = True
            engine.why_ended = {"reason": answer["reason"], "message": answer["message"]}
            self._stop(0.0)

    # -- the engine's end

    def _stop(self, seconds: float) -> None:
        """SIGTERM to the engine's first process, which ends its own; SIGKILL to all after `seconds`, or earlier when
        an earlier call said so; at once to a suspended one, which would wait for CUDA."""
        engine = self.engine
        if engine is None or engine.ended is not None:
            return
        kill_at = time.monotonic() + (0.0 if engine.suspended else seconds)
        if engine.kill_at is None:
            os.kill(engine.pid, signal.SIGTERM)
        engine.kill_at = kill_at if engine.kill_at is None else min(engine.kill_at, kill_at)
        self.timers["stop"] = (engine.kill_at, self._kill)

    def _kill(self) -> None:
        if self.engine is not None and self.engine.ended is None:
            log("warn", "the engine did not end in time, killing it", pid=self.engine.pid)
            kill_all(self.engine.pid)

    def _reap(self) -> None:
        """Every ended child, the engine's orphans included. The engine's group is killed while its first process is
        still a zombie: until it is reaped no other process can get that number."""
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is None:
                    return
                engine = self.engine if self.engine is not None and self.engine.pid == found.si_pid else None
                if engine is not None:
                    kill_all(engine.pid)
                _, status = os.waitpid(found.si_pid, 0)
            except ChildProcessError:
                return
            if engine is not None:
                code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
                engine.process.returncode = code or 0  # it is reaped: Popen must not wait for it
                engine.ended = (code, None if code is not None else signal_name(os.WTERMSIG(status)))
                engine.give_up_at = time.monotonic() + LEFTOVERS_SECONDS_MAX
                self._after("stop", 0.0, self._clear_leftovers)

    def _clear_leftovers(self) -> None:
        """Kills what an ended engine left until nothing of it is there: it may hold VRAM."""
        engine = self.engine
        if engine is None or engine.ended is None:
            return
        left = kill_all(None)
        if left and time.monotonic() < engine.give_up_at:
            return self._after("stop", 0.05, self._clear_leftovers)
        if left:
            log("error", "processes of the engine cannot be killed", pids=left)
        for copier in engine.copiers:
            copier.join(1.0)
        self.engine = None
        self._ended(engine, engine.ended)

    def _ended(self, engine: Engine, end: Tuple[Optional[int], Optional[str]]) -> None:
        extra = engine.why_ended or {}
        if engine.ready_at is None and engine.kill_at is None and self.settings.uuids and not self.gpus_seen:
            extra = {"message": f"It ended before it was ready, in a container without nvidia-smi. If it found no GPU: {REMEDY}"}
        log("info" if engine.kill_at else "error", "engine ended", code=end[0], signal=end[1], detail=extra.get("message"))
        self._say("exited", code=end[0], signal=end[1], tail=engine.tail.text(), **extra)
        if self.ending_since is None:
            ready_seconds = None if engine.ready_at is None else time.monotonic() - engine.ready_at
            self._ask_after(self.floor.after_end(ready_seconds, engine.asked_for))
        else:
            self.done = self.may_end

    def _ask_after(self, seconds: float) -> None:
        self.not_before = time.monotonic() + seconds
        self._after("ask", seconds, self._ask)

    # -- the end of the pod

    def _begin_ending(self) -> None:
        """SIGTERM: hold until the sidecar has drained. The kubelet ends native sidecars last, so it can."""
        if self.ending_since is not None:
            return
        self.ending_since = time.monotonic()
        self.grant = None
        for name in ("ask", "start"):
            self.timers.pop(name, None)
        grace = self.settings.grace_seconds
        log("info", "the pod ends: holding until its requests are done", graceSeconds=grace)
        self._after("end", max(0.0, grace - END_BEFORE_GRACE_SECONDS), self._end)
        self._say("ending")

    def _end(self) -> None:
        """Drained, or the grace is nearly over."""
        assert self.ending_since is not None
        self.timers.pop("end", None)
        self.may_end = True
        if self.engine is None:
            self.done = True
            return
        left = self.ending_since + self.settings.grace_seconds - KILL_BEFORE_GRACE_SECONDS - time.monotonic()
        self._stop(max(0.0, min(self.settings.stop_seconds, left)))


def main() -> int:
    try:
        settings = read_settings(sys.argv[1:], os.environ)
    except SettingError as error:
        log("error", str(error))
        return 2
    try:
        # Outside a container we are not process 1; orphans come to us all the same.
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (OSError, AttributeError):
        pass  # as process 1 we need no such thing
    Launcher(settings).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
