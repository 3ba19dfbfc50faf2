"""A real vLLM on this machine's CPU, spoken to over its Unix socket. Standard library only."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gthread.weights_source import read_manifest

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("GREENTHREAD_CACHE") or Path.home() / ".cache" / "greenthread")
PYTHON = CACHE / "vllm-0.32.0" / "venv" / "bin" / "python3"
START_SECONDS_MAX = 400.0
REQUEST_SECONDS_MAX = 120.0


class EngineEnded(Exception):
    """Its last words."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=REQUEST_SECONDS_MAX)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(REQUEST_SECONDS_MAX)
        self.sock.connect(self._path)


class Engine:
    def __init__(
        self,
        folder: Path,
        name: str,
        model: Path,
        flags: list[str],
        env: dict[str, str],
        python: Path = PYTHON,
        eager: bool = True,
    ) -> None:
        self.socket = str(folder / f"{name}.sock")
        self.log = folder / f"{name}.log"
        command = [
            *("nice", "-n", "10", str(python), "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(model), "--served-model-name", "m", "--uds", self.socket, "--enable-sleep-mode"),
            *(["--enforce-eager"] if eager else []),
            *("--max-model-len", "1024", *flags),
        ]
        fixed = {
            "PYTHONPATH": str(REPOSITORY / "vllm"),
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            # Else each engine binds itself to the first core.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **fixed, **env}, start_new_session=True
            )

    def wait(self) -> Engine:
        """Until it serves. @raises EngineEnded"""
        end = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise EngineEnded(self.words()[-4000:])
            try:
                if self.call("GET", "/health")[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.25)
        raise EngineEnded(f"not ready in {START_SECONDS_MAX} s: {self.words()[-4000:]}")

    def words(self) -> str:
        return self.log.read_text(errors="replace")

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = _Connection(self.socket)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"content-type": "application/json"})
            response = connection.getresponse()
            raw = response.read()
            try:
                return response.status, json.loads(raw) if raw else None
            except ValueError:
                return response.status, raw.decode(errors="replace")
        finally:
            connection.close()

    def sleep(self, level: int = 1) -> float:
        """@returns seconds"""
        return self._timed(f"/sleep?level={level}&mode=keep")

    def wake(self) -> float:
        return self._timed("/wake_up")

    def _timed(self, path: str) -> float:
        since = time.perf_counter()
        status, answer = self.call("POST", path)
        assert status == 200, answer
        return time.perf_counter() - since

    def rpc(self, method: str) -> tuple[int, Any]:
        return self.call("POST", "/collective_rpc", {"method": method})

    def stats(self) -> dict[str, Any]:
        status, answer = self.rpc("gthread_stats")
        assert status == 200, answer
        return answer["results"][0]

    @staticmethod
    def _question(prompt: str, tokens: int) -> dict[str, object]:
        return {
            "model": "m",
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }

    def complete(self, prompt: str, tokens: int = 40) -> list[int]:
        status, answer = self.call("POST", "/v1/completions", self._question(prompt, tokens))
        assert status == 200, answer
        return answer["choices"][0]["token_ids"]

    def stream(self, prompt: str, tokens: int) -> Iterator[list[int]]:
        connection = _Connection(self.socket)
        body = json.dumps({**self._question(prompt, tokens), "stream": True})
        connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        for line in response:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                event = json.loads(line[6:])
                assert "error" not in event, event
                yield [token for choice in event["choices"] for token in choice.get("token_ids") or []]
        connection.close()

    def stop(self) -> None:
        """Its whole session, so that no worker outlives a test."""
        for number, seconds in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0)):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(seconds)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue


class Streams:
    """Several streams at once, each read by a thread of its own."""

    def __init__(self, engine: Engine, prompts: list[str], tokens: int) -> None:
        self.tokens: list[list[int]] = [[] for _ in prompts]
        self.at: list[list[float]] = [[] for _ in prompts]
        self.failed: list[BaseException] = []

        def read(number: int, prompt: str) -> None:
            try:
                for part in engine.stream(prompt, tokens):
                    self.tokens[number] += part
                    self.at[number] += [time.monotonic()] * len(part)
            except BaseException as error:
                self.failed.append(error)

        self._threads = [threading.Thread(target=read, args=pair, daemon=True) for pair in enumerate(prompts)]
        for thread in self._threads:
            thread.start()

    def wait_for(self, tokens: int) -> None:
        end = time.monotonic() + REQUEST_SECONDS_MAX
        while min(map(len, self.tokens)) < tokens:
            assert not self.failed, self.failed
            assert time.monotonic() < end, self.tokens
            time.sleep(0.005)

    def join(self) -> list[list[int]]:
        for thread in self._threads:
            thread.join(REQUEST_SECONDS_MAX)
        assert not self.failed, self.failed
        return self.tokens


def pss(pid: int) -> dict[str, int]:
    """Proportional set size by kind, bytes (smaps_rollup)."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.startswith("Pss") or name == "Rss":
            found[name] = int(rest.split()[0]) * 1024
    return found


class Staging:
    """What the agent's staging does, by its words (docs/weights.md): fills `weights` from the front, says how far it is."""

    STEP_BYTES = 32 * 1024 * 1024

    def __init__(self, form: Path, pool: Path, hold_at: int) -> None:
        """@param hold_at bytes at which it waits for `release`"""
        self.folder = pool / "staged" / f"{form.parent.name}@{form.name.removesuffix('.gthread-1')}"
        self.folder.mkdir(parents=True)
        self._source, self._hold_at = form / "weights", hold_at
        self._size = self._source.stat().st_size
        self._released = threading.Event()
        with (self.folder / "weights").open("wb") as weights:
            weights.truncate(self._size)
        (self.folder / "form.sha256").write_text(hashlib.sha256(read_manifest(form).chunk_hashes).hexdigest())
        self._say(0, 0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _say(self, there: int, state: int) -> None:
        data = there.to_bytes(8, "little") + state.to_bytes(8, "little")
        descriptor = os.open(self.folder / "progress", os.O_WRONLY | os.O_CREAT, 0o644)
        os.pwrite(descriptor, data, 0)
        os.close(descriptor)

    def _run(self) -> None:
        with self._source.open("rb") as source, (self.folder / "weights").open("r+b") as target:
            for at in range(0, self._size, self.STEP_BYTES):
                if at >= self._hold_at:
                    self._released.wait()
                target.write(source.read(self.STEP_BYTES))
                target.flush()
                self._say(min(at + self.STEP_BYTES, self._size), 0)
        self._say(self._size, 1)

    def release(self) -> None:
        self._released.set()
