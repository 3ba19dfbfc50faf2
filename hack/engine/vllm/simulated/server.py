"""The server's life: flags, memory, boot, routes, the end."""

import asyncio
import os
import signal
import socket
import sys
import time

from . import admin, arguments, audio, boot, completions, parameters, pooling, responses
from .engine import Engine
from .generation import json_body
from .http_server import Connection, NoRoute, Refusal
from .journal import Journal
from .metrics import Metrics

HIDDEN_SIZE_DEFAULT = 64
LISTEN_BACKLOG = 2048


async def invoke(server, request, reply):
    """/invocations: the route that fits the body."""
    body = json_body(request)
    for field, route in (("messages", completions.chat), ("prompt", completions.complete), ("query", pooling.rerank),
                         ("text_1", pooling.score), ("input", pooling.embed)):
        if field in body:
            await route(server, request, reply)
            return
    raise Refusal(400, "Cannot find suitable handler for request")


GET, POST = "GET", "POST"
ROUTES = {
    "/health": {GET: admin.health}, "/ping": {GET: admin.health, POST: admin.health}, "/version": {GET: admin.version},
    "/v1/models": {GET: admin.models}, "/metrics": {GET: admin.metrics},
    "/tokenize": {POST: admin.tokenize}, "/detokenize": {POST: admin.detokenize},
    "/v1/chat/completions": {POST: completions.chat}, "/v1/completions": {POST: completions.complete},
    "/v1/responses": {POST: responses.respond}, "/v1/messages": {POST: responses.messages},
    "/v1/messages/count_tokens": {POST: responses.count_tokens},
    "/v1/embeddings": {POST: pooling.embed}, "/pooling": {POST: pooling.pool}, "/classify": {POST: pooling.classify},
    "/score": {POST: pooling.score}, "/v1/score": {POST: pooling.score},
    "/rerank": {POST: pooling.rerank}, "/v1/rerank": {POST: pooling.rerank}, "/v2/rerank": {POST: pooling.rerank},
    "/v1/audio/transcriptions": {POST: audio.transcribe}, "/v1/audio/translations": {POST: audio.transcribe},
    "/v1/audio/speech": {POST: audio.speak}, "/invocations": {POST: invoke},
}
DEV_ROUTES = {
    "/sleep": {POST: admin.sleep}, "/wake_up": {POST: admin.wake_up}, "/is_sleeping": {GET: admin.is_sleeping},
    "/pause": {POST: admin.pause}, "/resume": {POST: admin.resume}, "/is_paused": {GET: admin.is_paused},
    "/reset_prefix_cache": {POST: admin.reset_prefix_cache},
    "/collective_rpc": {POST: admin.collective_rpc},
}


class Server:
    """What the routes need."""

    def __init__(self, flags, config, live, gpus, shares):
        self.flags, self.parameters, self.root = flags, live, flags.model
        self.names = flags.served_model_name or [flags.model]
        self.max_model_len = boot.model_length(config, flags.max_model_len)
        self.hidden_size = config.get("hidden_size") or HIDDEN_SIZE_DEFAULT
        self.created = int(time.time())
        self.metrics, self.journal = Metrics(self.names[0]), Journal(gpus, self.names[0])
        self.engine = Engine(gpus, shares, live, self.journal, self.metrics)
        self._routes = ROUTES | (DEV_ROUTES if os.environ.get("VLLM_SERVER_DEV_MODE") == "1" else {})

    async def handle(self, request, reply):
        methods = self._routes.get(request.path)
        if methods is None:
            raise NoRoute(404)
        route = methods.get(request.method)
        if route is None:
            raise NoRoute(405, [("allow", ", ".join(methods))])
        await route(self, request, reply)


def _bind(path):
    """The socket exists from the start and listens only when booted, as vLLM's does. A stale file is an error."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    return listener


def _leave_early(settings, started):
    """The engine that exits by itself (exitCode)."""
    if settings["exitCode"] >= 0 and time.monotonic() - started >= settings["exitAfterSeconds"]:
        print(f"ERROR: simulated failure (exitCode {settings['exitCode']:.0f})", file=sys.stderr, flush=True)
        os._exit(int(settings["exitCode"]))


async def _watch_exit(live, started):
    while True:
        _leave_early(live.fresh(), started)
        await asyncio.sleep(parameters.REREAD_SECONDS)


def _on_sigterm(live):
    if live.fresh()["ignoresSigterm"]:
        print("WARNING: SIGTERM ignored (simulated)", flush=True)
        return
    print("INFO: Shutting down", flush=True)
    os._exit(0)


async def serve(flags):
    started = time.monotonic()
    config = boot.model_config(flags.model)
    gpus = boot.gpus_for(flags, os.environ)
    live = parameters.Live(gpus[0].folder, flags.model, os.environ)
    shares = boot.plan(gpus[0], flags, live.fresh())
    server = Server(flags, config, live, gpus, shares)
    listener = _bind(flags.uds)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_sigterm, live)
    watcher = asyncio.ensure_future(_watch_exit(live, started)) if live.fresh()["exitCode"] >= 0 else None
    print(f"INFO: Initializing a simulated engine (v{admin.__version__}) with model={flags.model!r} on {[g.uuid for g in gpus]}", flush=True)
    await boot.take_memory(gpus, shares, live.fresh(), flags.gpu_memory_utilization)
    print(f"INFO: init engine took {time.monotonic() - started:.2f} seconds", flush=True)
    stepping = asyncio.ensure_future(server.engine.loop())
    stepping.add_done_callback(_engine_ended)
    await loop.create_unix_server(lambda: Connection(server.handle), sock=listener, backlog=LISTEN_BACKLOG)
    print(f"INFO: Starting vLLM server on unix:{flags.uds}\nINFO: Application startup complete.", flush=True)
    await asyncio.Event().wait()
    del watcher


def _engine_ended(task):
    error = task.exception()
    print(f"ERROR: EngineCore encountered a fatal error. {error!r}", file=sys.stderr, flush=True)
    os._exit(1)


def main(argv):
    flags = arguments.parse(argv)
    try:
        asyncio.run(serve(flags))
    except boot.BootError as error:
        print(f"ERROR: EngineCore failed to start.\n{error.kind}: {error}\n"
              "RuntimeError: Engine core initialization failed. See root cause above.", file=sys.stderr, flush=True)
        return 1
    except (parameters.BadParameter, OSError) as error:
        print(f"ERROR: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    return 0
