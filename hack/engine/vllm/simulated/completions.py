"""/v1/chat/completions and /v1/completions in vLLM's shapes."""

import time

from . import text
from .generation import answer_for, event, json_body, last_user_text, model_of, whole_number
from .http_server import Refusal


def _limit(body):
    for name in ("max_completion_tokens", "max_tokens"):
        value = whole_number(body, name, least=1)
        if value is not None:
            return value
    return None


def _usage_wanted(body):
    options = body.get("stream_options") or {}
    return bool(options.get("include_usage")), bool(options.get("continuous_usage_stats"))


def _chat_logprobs(pieces, first):
    return {
        "content": [
            {"token": piece, "logprob": text.logprob(piece, first + i), "bytes": list(piece.encode()), "top_logprobs": []}
            for i, piece in enumerate(pieces)
        ]
    }


def _completion_logprobs(pieces, first):
    values = [text.logprob(piece, first + i) for i, piece in enumerate(pieces)]
    return {"text_offset": [], "token_logprobs": values, "tokens": list(pieces), "top_logprobs": [{p: v} for p, v in zip(pieces, values)]}


async def chat(server, request, reply):
    body = json_body(request)
    model = model_of(server, body)
    prompt = last_user_text(body.get("messages"))
    wants_logprobs = body.get("logprobs") is True
    answer = answer_for(server, request, body, prompt, _limit(body), "chatcmpl")
    created = int(time.time())
    if body.get("stream") is not True:
        async with answer:
            content, reason, pieces = await answer.whole()
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": content, "refusal": None, "annotations": None, "audio": None,
                        "function_call": None, "tool_calls": [], "reasoning": None},
            "logprobs": _chat_logprobs(pieces, 0) if wants_logprobs else None,
            "finish_reason": reason, "stop_reason": None, "token_ids": None,
        }
        reply.json({"id": answer.id, "object": "chat.completion", "created": created, "model": model, "choices": [choice],
                    "service_tier": None, "system_fingerprint": None, "usage": answer.usage(),
                    "prompt_logprobs": None, "prompt_token_ids": None, "kv_transfer_params": None})
        return

    def chunk(delta, reason, logprobs=None):
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        if reason:
            choice["stop_reason"] = None
        return {"id": answer.id, "object": "chat.completion.chunk", "created": created, "model": model, "choices": [choice]}

    usage_last, usage_always = _usage_wanted(body)
    async with answer:
        async for piece, reason in answer:
            if not reply.started:
                reply.stream("text/event-stream; charset=utf-8")
                await reply.write(event(chunk({"role": "assistant", "content": ""}, None)))
            logprobs = _chat_logprobs([piece], answer.completion_tokens - 1) if wants_logprobs and piece else None
            data = chunk({"content": piece}, reason, logprobs)
            if usage_always:
                data["usage"] = answer.usage()
            await reply.write(event(data))
        if usage_last:
            await reply.write(event({"id": answer.id, "object": "chat.completion.chunk", "created": created, "model": model,
                                     "choices": [], "usage": answer.usage()}))
        await reply.write(event("[DONE]"))


def _completion_prompt(body):
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
        prompt = " ".join(str(token) for token in prompt)
    if not isinstance(prompt, str) or not prompt:
        raise Refusal(400, "The simulated engine takes one prompt: a string or a list of token ids.", param="prompt")
    return prompt


COMPLETION_TOKENS_DEFAULT = 16


async def complete(server, request, reply):
    body = json_body(request)
    model = model_of(server, body)
    prompt = _completion_prompt(body)
    wants_logprobs = whole_number(body, "logprobs") is not None
    answer = answer_for(server, request, body, prompt, _limit(body) or COMPLETION_TOKENS_DEFAULT)
    common = {"id": answer.id, "object": "text_completion", "created": int(time.time()), "model": model}
    if body.get("stream") is not True:
        async with answer:
            content, reason, pieces = await answer.whole()
        choice = {"index": 0, "text": content, "logprobs": _completion_logprobs(pieces, 0) if wants_logprobs else None,
                  "finish_reason": reason, "stop_reason": None, "token_ids": None, "prompt_logprobs": None, "prompt_token_ids": None}
        reply.json(common | {"choices": [choice], "service_tier": None, "system_fingerprint": None,
                             "usage": answer.usage(), "kv_transfer_params": None})
        return
    usage_last, usage_always = _usage_wanted(body)
    async with answer:
        async for piece, reason in answer:
            if not reply.started:
                reply.stream("text/event-stream; charset=utf-8")
            logprobs = _completion_logprobs([piece], answer.completion_tokens - 1) if wants_logprobs and piece else None
            choice = {"index": 0, "text": piece, "logprobs": logprobs, "finish_reason": reason, "stop_reason": None}
            await reply.write(event(common | {"choices": [choice]} | ({"usage": answer.usage()} if usage_always else {})))
        if usage_last:
            await reply.write(event(common | {"choices": [], "usage": answer.usage()}))
        await reply.write(event("[DONE]"))
