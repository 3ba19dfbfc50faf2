"""What is not inference: health, models, tokens, metrics, and the dev routes that exist with VLLM_SERVER_DEV_MODE=1."""

import asyncio

from vllm import __version__

from . import memory
from .generation import content_text, json_body, model_of
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
        raise Refusal(400, "prompt must be a text.", param="prompt")
    points = [ord(character) for character in prompt]
    reply.json({"count": len(points), "max_model_len": server.max_model_len, "tokens": points, "token_strs": None})


async def detokenize(server, request, reply):
    body = json_body(request)
    model_of(server, body)
    tokens = body.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, int) and 0 <= token < 0x110000 for token in tokens):
        raise Refusal(400, "tokens must be a list of token ids.", param="tokens")
    reply.json({"prompt": "".join(map(chr, tokens))})


# Dev routes


def _mode(request):
    mode = request.query.get("mode", ["abort"])[-1]
    if mode not in ("abort", "wait", "keep"):
        raise Refusal(400, f"Invalid mode '{mode}'. Expected 'abort', 'wait' or 'keep'.", "BadRequestError", "mode")
    return mode


def _level(request):
    level = request.query.get("level", ["1"])[-1]
    if level not in ("0", "1", "2"):
        raise Refusal(400, f"Invalid sleep level '{level}'. Expected 0, 1 or 2.", "BadRequestError", "level")
    return int(level)


async def _to_the_end(work):
    """A transition goes on when its caller leaves."""
    return await asyncio.shield(asyncio.ensure_future(work))


async def sleep(server, request, reply):
    if not server.flags.enable_sleep_mode:
        raise Refusal(500, "Sleep mode is not enabled in the model config", "InternalServerError")
    level = await _to_the_end(server.engine.sleep(_level(request), _mode(request)))
    reply.json({"status": "sleeping", "level": level})


async def wake_up(server, request, reply):
    tags = request.query.get("tags")
    if tags and not set(tags) <= {"weights", "kv_cache", "scheduling"}:
        raise Refusal(400, f"Invalid tags {tags}. Expected weights or kv_cache.", "BadRequestError", "tags")
    try:
        await _to_the_end(server.engine.wake(tags))
    except memory.OutOfMemory as error:
        raise Refusal(500, str(error), "InternalServerError") from error
    reply.json({"status": "sleeping" if server.engine.asleep else "awake"})


async def is_sleeping(server, _request, reply):
    reply.json({"is_sleeping": server.engine.asleep or server.engine.paused})


async def pause(server, request, reply):
    await _to_the_end(server.engine.pause(_mode(request)))
    reply.json({"status": "paused"})


async def resume(server, _request, reply):
    server.engine.resume()
    reply.json({"status": "resumed"})


async def done(_server, _request, reply):
    reply.bytes(b"", "text/plain; charset=utf-8")


async def collective_rpc(server, request, reply):
    """Any worker method by name; sleeping past the scheduler is what breaks the real engine, so it is written down."""
    method = json_body(request).get("method")
    if method in ("sleep", "wake_up"):
        memory.report(server.engine.gpus[0], "sleep-past-the-scheduler", {"method": method})
    if method == "reload_weights":
        await _to_the_end(server.engine.reload_weights())
    elif method not in RPC_METHODS:
        raise Refusal(500, f"Call to collective_rpc method failed: '{method}'", "InternalServerError")
    reply.json({"results": [None for _ in server.engine.gpus]})
