"""/v1/responses (OpenAI) and /v1/messages (Anthropic) in vLLM's shapes."""

import os
import time

from . import text
from .generation import answer_for, content_text, event, json_body, last_user_text, model_of, whole_number
from .http_server import Refusal

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "abort": "refusal"}


def _responses_prompt(body):
    given = body.get("input")
    if isinstance(given, str) and given:
        return given
    if isinstance(given, list):
        return last_user_text([item for item in given if isinstance(item, dict) and "content" in item])
    raise Refusal(400, "input must be a text or a list of messages.", param="input")


async def respond(server, request, reply):
    body = json_body(request)
    model = model_of(server, body)
    answer = answer_for(server, request, body, _responses_prompt(body), whole_number(body, "max_output_tokens", least=1), "resp")
    item_id, created = f"msg_{os.urandom(12).hex()}", int(time.time())

    def part(content):
        return {"type": "output_text", "text": content, "annotations": [], "logprobs": None}

    def item(content, status):
        parts = [part(content)] if content is not None else []
        return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": parts}

    def response(status, output=(), usage=None, reason=None):
        return {"id": answer.id, "object": "response", "created_at": created, "status": status, "model": model,
                "output": list(output), "usage": usage, "error": None, "parallel_tool_calls": True, "tools": [], "tool_choice": "auto",
                "incomplete_details": {"reason": "max_output_tokens"} if reason == "length" else None}

    def usage():
        return {"input_tokens": answer.prompt_tokens, "output_tokens": answer.completion_tokens,
                "total_tokens": answer.prompt_tokens + answer.completion_tokens,
                "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}

    if body.get("stream") is not True:
        async with answer:
            content, reason, _ = await answer.whole()
        status = "incomplete" if reason == "length" else "completed"
        reply.json(response(status, [item(content, "completed")], usage(), reason))
        return

    sequence = 0

    async def send(kind, **fields):
        nonlocal sequence
        await reply.write(event({"type": kind, "sequence_number": sequence} | fields, kind))
        sequence += 1

    place = {"item_id": item_id, "output_index": 0, "content_index": 0}
    whole, reason = "", None
    async with answer:
        async for piece, reason in answer:
            if not reply.started:
                reply.stream("text/event-stream; charset=utf-8")
                await send("response.created", response=response("in_progress"))
                await send("response.in_progress", response=response("in_progress"))
                await send("response.output_item.added", output_index=0, item=item(None, "in_progress"))
                await send("response.content_part.added", part=part(""), **place)
            whole += piece
            await send("response.output_text.delta", delta=piece, logprobs=[], **place)
        await send("response.output_text.done", text=whole, logprobs=[], **place)
        await send("response.content_part.done", part=part(whole), **place)
        await send("response.output_item.done", output_index=0, item=item(whole, "completed"))
        status = "incomplete" if reason == "length" else "completed"
        await send("response." + status, response=response(status, [item(whole, "completed")], usage(), reason))


def _messages_refusal(refusal):
    """Anthropic's error shape."""
    kinds = {400: "invalid_request_error", 404: "not_found_error"}
    return {"type": "error", "error": {"type": kinds.get(refusal.status, "api_error"), "message": refusal.message}}


async def messages(server, request, reply):
    try:
        body = json_body(request)
        model = model_of(server, body)
        limit = whole_number(body, "max_tokens", least=1)
        if limit is None:
            raise Refusal(400, "max_tokens: Field required", param="max_tokens")
        answer = answer_for(server, request, body, last_user_text(body.get("messages")), limit, "msg")
    except Refusal as refusal:
        reply.json(_messages_refusal(refusal), refusal.status)
        return
    head = {"id": answer.id, "type": "message", "role": "assistant", "model": model, "stop_sequence": None}
    if body.get("stream") is not True:
        async with answer:
            content, reason, _ = await answer.whole()
        reply.json(head | {"content": [{"type": "text", "text": content}], "stop_reason": STOP_REASONS[reason],
                           "usage": {"input_tokens": answer.prompt_tokens, "output_tokens": answer.completion_tokens}})
        return
    reason = None
    async with answer:
        async for piece, reason in answer:
            if not reply.started:
                reply.stream("text/event-stream; charset=utf-8")
                start = head | {"content": [], "stop_reason": None, "usage": {"input_tokens": answer.prompt_tokens, "output_tokens": 0}}
                await reply.write(event({"type": "message_start", "message": start}, "message_start"))
                await reply.write(event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
                                        "content_block_start"))
            await reply.write(event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}},
                                    "content_block_delta"))
        await reply.write(event({"type": "content_block_stop", "index": 0}, "content_block_stop"))
        await reply.write(event({"type": "message_delta", "delta": {"stop_reason": STOP_REASONS[reason], "stop_sequence": None},
                                 "usage": {"input_tokens": answer.prompt_tokens, "output_tokens": answer.completion_tokens}}, "message_delta"))
        await reply.write(event({"type": "message_stop"}, "message_stop"))


async def count_tokens(server, request, reply):
    try:
        body = json_body(request)
        model_of(server, body)
        last_user_text(body.get("messages"))
    except Refusal as refusal:
        reply.json(_messages_refusal(refusal), refusal.status)
        return
    total = sum(text.count_tokens(content_text(message.get("content"))) for message in body["messages"])
    reply.json({"input_tokens": total, "context_management": None})
