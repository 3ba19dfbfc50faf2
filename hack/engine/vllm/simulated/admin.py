"""What is not inference: health, models, tokens, metrics, and the dev routes that exist with VLLM_SERVER_DEV_MODE=1."""

import asyncio
import json

from vllm import __version__

from . import memory
from .generation import content_text, invalid, json_body, model_of
from .http_server import Refusal

# Worker methods that /collective_rpc may name without harm.
RPC_METHODS = ("get_cache_block_size_bytes", "get_kv_cache_spec", "check_health", "compute_weight_checksums", "gthread_stats")


async def health(server, _request, reply):
    if server.parameters.current()["hang"] == "health":
        await asyncio.Event().wait()
    reply.bytes(b"", "text/plain; charset=utf-8")


async def version(_server, _request, reply):
    reply.json({"version": __version__})


async def models(server, _request, reply):
    permission = {"id": "modelperm-simulated", "object": "model_permission", "created": server.created, "allow_create_engine": False,
                  "allow_sampling": True, "allow_logprobs": True, "allow_search_indices": False, "allow_view": True,
                  "allow_fine_tuning": False, "organization": "*", "group": None, "is_blocking": False}
    data = [{"id": name, "object": "model", "created": server.created, "owned_by": "vllm", "root": server.root, "parent": None,
             "max_model_len": server.max_model_len, "permission": [permission]} for name in server.names]
    reply.json({"object": "list", "data": data})


async def metrics(server, _request, reply):
    reply.bytes(server.metrics.text(server.engine).encode(), "text/plain; version=0.0.4; charset=utf-8")


async def tokenize(server, request, reply):
    body = json_body(request)
    model_of(server, body)
    prompt = body.get("prompt")
    if prompt is None:
        prompt = " ".join(content_text(message.get("content")) for message in body.get("messages") or [])
    if not isinstance(prompt, str) or not prompt:
        raise invalid("Field required", "body.prompt")
    points = [ord(character) for character in prompt]
    strings = list(prompt) if body.get("return_token_strs") is True else None
    reply.json({"count": len(points), "max_model_len": server.max_model_len, "tokens": points, "token_strs": strings})


async def detokenize(server, request, reply):
    body = json_body(request)
    model_of(server, body)
    tokens = body.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, int) and 0 <= token < 0x110000 for token in tokens):
        raise invalid("Input should be a valid integer", "body.tokens.0")
    reply.json({"prompt": "".join(map(chr, tokens))})


# Dev routes


def _mode(request):
    mode = request.query.get("mode", ["abort"])[-1]
    if mode not in ("abort", "wait", "keep"):
        raise invalid("Input should be 'abort', 'wait' or 'keep'", "query.mode")
    return mode


def _level(request):
    level = request.query.get("level", ["1"])[-1]
    if level not in ("0", "1", "2"):
        raise invalid("Input should be a valid integer, at least 0 and less than or equal to 2", "query.level")
    return int(level)


async def _to_the_end(server, operation, work):
    """A transition goes on when its caller leaves."""
    async def counted():
        with server.metrics.sleep_operation(operation):
            await work

    await asyncio.shield(asyncio.ensure_future(counted() if operation else work))


async def sleep(server, request, reply):
    if not server.flags.enable_sleep_mode:
        raise Refusal(500, "Sleep mode is not enabled in the model config", "InternalServerError")
    level, mode = _level(request), _mode(request)
    await _to_the_end(server, "sleep", server.engine.sleep(level, mode))
    reply.json({"status": "sleeping", "level": level})


async def wake_up(server, request, reply):
    tags = request.query.get("tags")
    try:
        await _to_the_end(server, "wake", server.engine.wake(tags))
    except memory.OutOfMemory as error:
        raise Refusal(500, str(error), "InternalServerError") from error
    reply.json({"status": "sleeping" if server.engine.asleep else "awake", "tags": tags})


async def is_sleeping(server, _request, reply):
    reply.json({"is_sleeping": server.engine.is_sleeping})


async def is_paused(server, _request, reply):
    reply.json({"is_paused": server.engine.pause_state is not None})


async def pause(server, request, reply):
    await _to_the_end(server, None, server.engine.pause(_mode(request)))
    reply.json({"status": "paused"})


async def resume(server, _request, reply):
    server.engine.resume()
    reply.json({"status": "resumed"})


async def reset_prefix_cache(_server, _request, reply):
    reply.json({"success": True})


def _rpc_method(body):
    """Its route reads the body itself, whatever its type."""
    try:
        words = json.loads(body)
    except ValueError as error:
        raise Refusal(400, f"JSON decode error: {error}") from None
    if not isinstance(words, dict):
        raise Refusal(400, "Request body must be a JSON object")
    if words.get("method") is None:
        raise Refusal(400, "Missing 'method' in request body")
    return words["method"]


async def collective_rpc(server, request, reply):
    """Any worker method by name; sleeping past the scheduler is what breaks the real engine, so it is written down."""
    method = _rpc_method(request.body)
    if method in ("sleep", "wake_up"):
        memory.report(server.engine.gpus[0], "sleep-past-the-scheduler", {"method": method})
    if method == "reload_weights":
        await _to_the_end(server, None, server.engine.reload_weights())
    elif method not in RPC_METHODS:
        raise Refusal(500, f"Call to collective_rpc method failed: Worker failed with error ''Worker' object has no attribute '{method}''", "InternalServerError")
    reply.json({"results": [None for _ in server.engine.gpus]})
