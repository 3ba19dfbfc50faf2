"""/v1/chat/completions and /v1/completions in vLLM's shapes."""

import time

from . import text
from .generation import answer_for, event, json_body, last_user_text, model_of, whole_number
from .http_server import Refusal

FINGERPRINT = "vllm-0.32.0-simulated"


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


def _completion_logprobs(pieces, first, offset, body):
    """For each token its log probability and those of as many of the likeliest as asked for. @param offset characters before it"""
    named = text.named_ids if body.get("return_tokens_as_token_ids") is True else list
    offsets, values, tops = [], [], []
    for i, piece in enumerate(pieces):
        value = text.logprob(piece, first + i)
        likeliest = text.likeliest(piece, value, max(1, body["logprobs"]))
        offsets.append(offset)
        values.append(value)
        tops.append(dict(zip(named(likeliest), likeliest.values())))
        offset += len(piece)
    return {"text_offset": offsets, "token_logprobs": values, "tokens": named(pieces), "top_logprobs": tops}


async def chat(server, request, reply):
    body = json_body(request)
    model = model_of(server, body)
    prompt = last_user_text(body.get("messages"))
    wants_logprobs, wants_ids = body.get("logprobs") is True, body.get("return_token_ids") is True
    answer = answer_for(server, request, body, prompt, _limit(body), "chatcmpl")
    created = int(time.time())
    prompt_ids = text.token_ids(prompt.split()) if wants_ids else None
    if body.get("stream") is not True:
        async with answer:
            content, reason, pieces = await answer.whole()
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": content, "refusal": None, "annotations": None, "audio": None,
                        "function_call": None, "reasoning": None},
            "logprobs": _chat_logprobs(pieces, 0) if wants_logprobs else None,
            "finish_reason": reason, "stop_reason": None, "token_ids": text.token_ids(pieces) if wants_ids else None,
            "routed_experts": None,
        }
        reply.json({"id": answer.id, "object": "chat.completion", "created": created, "model": model, "choices": [choice],
                    "prompt_logprobs": None, "prompt_token_ids": prompt_ids, "prompt_text": None} | _tail(answer))
        return

    common = {"id": answer.id, "object": "chat.completion.chunk", "created": created, "model": model}

    def chunk(piece, reason):
        logprobs = _chat_logprobs([piece], answer.completion_tokens - 1) if wants_logprobs and piece else None
        choice = {"index": 0, "delta": {"content": piece}, "logprobs": logprobs, "finish_reason": reason,
                  "token_ids": text.token_ids([piece]) if wants_ids and piece else None}
        if reason:
            choice["stop_reason"] = None
        return common | {"choices": [choice]} | _last(reason and not usage_last)

    usage_last, usage_always = _usage_wanted(body)
    async with answer:
        async for piece, reason in answer:
            if not reply.started:
                reply.stream("text/event-stream; charset=utf-8")
                first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
                none_yet = _running_usage(answer.prompt_tokens, 0) if usage_always else {}
                await reply.write(event(common | {"choices": [first], "prompt_token_ids": prompt_ids, "prompt_text": None} | none_yet))
            running = _running_usage(answer.prompt_tokens, answer.completion_tokens) if usage_always else {}
            await reply.write(event(chunk(piece, reason) | running))
        if usage_last:
            await reply.write(event(common | {"choices": [], "usage": answer.usage()} | _last(True)))
        await reply.write(event("[DONE]"))


def _tail(answer):
    """What a whole answer ends with."""
    usage = answer.usage() | {"prompt_tokens_details": None, "completion_tokens_details": None}
    return {"service_tier": None, "system_fingerprint": FINGERPRINT, "usage": usage,
            "kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}


def _last(is_last):
    """Only the last chunk of a stream carries the fingerprint."""
    return {"system_fingerprint": FINGERPRINT} if is_last else {}


def _running_usage(prompt_tokens, completion_tokens):
    return {"usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens + completion_tokens,
                      "completion_tokens": completion_tokens, "completion_tokens_details": None}}


def _completion_prompt(body):
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
        prompt = " ".join(str(token) for token in prompt)
    if prompt is None or prompt in ("", []):
        raise Refusal(400, "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)", "BadRequestError", "prompt")
    if not isinstance(prompt, str):
        raise Refusal(400, "The simulated engine takes one prompt: a string or a list of token ids.", "BadRequestError", "prompt")
    return prompt


COMPLETION_TOKENS_DEFAULT = 16


async def complete(server, request, reply):
    body = json_body(request)
    model = model_of(server, body)
    prompt = _completion_prompt(body)
    wants_logprobs, wants_ids = whole_number(body, "logprobs") is not None, body.get("return_token_ids") is True
    prompt_ids = text.token_ids(prompt.split()) if wants_ids else None
    answer = answer_for(server, request, body, prompt, _limit(body) or COMPLETION_TOKENS_DEFAULT)
    common = {"id": answer.id, "object": "text_completion", "created": int(time.time()), "model": model}
    if body.get("stream") is not True:
        async with answer:
            content, reason, pieces = await answer.whole()
        choice = {"index": 0, "text": content, "logprobs": _completion_logprobs(pieces, 0, 0, body) if wants_logprobs else None,
                  "finish_reason": reason, "stop_reason": None, "token_ids": text.token_ids(pieces) if wants_ids else None,
                  "prompt_logprobs": None, "prompt_token_ids": prompt_ids, "routed_experts": None}
        reply.json(common | {"choices": [choice]} | _tail(answer))
        return
    usage_last, usage_always = _usage_wanted(body)
    offset = 0
    async with answer:
        async for piece, reason in answer:
            first_ids = None
            if not reply.started:
                reply.stream("text/event-stream; charset=utf-8")
                first_ids = prompt_ids
            logprobs = _completion_logprobs([piece], answer.completion_tokens - 1, offset, body) if wants_logprobs and piece else None
            offset += len(piece)
            choice = {"index": 0, "text": piece, "logprobs": logprobs, "finish_reason": reason, "stop_reason": None,
                      "prompt_token_ids": first_ids, "token_ids": text.token_ids([piece]) if wants_ids and piece else None}
            running = {"usage": answer.usage()} if usage_always else {}
            await reply.write(event(common | {"choices": [choice]} | running | _last(reason and not usage_last)))
        if usage_last:
            await reply.write(event(common | {"choices": [], "usage": answer.usage()} | _last(True)))
        await reply.write(event("[DONE]"))
