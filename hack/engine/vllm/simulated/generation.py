"""One answer from submission to its last token, with its lines in access.log."""

import json
import os
import time

from . import text
from .engine import Request
from .http_server import Refusal

MAX_TOKENS_MAX = 1_000_000


class Generation:
    """`async with Generation(…) as answer: async for piece, reason in answer`. Leaving early frees the request."""

    def __init__(self, server, http_request, prompt, pieces, reason, prefix="cmpl"):
        given = http_request.headers.get("x-request-id")
        self.id = f"{prefix}-{given or os.urandom(12).hex()}"
        self.prompt_tokens, self.completion_tokens = text.count_tokens(prompt), 0
        self._server, self._route, self._prompt = server, http_request.path, prompt
        self._request = Request(self.id, pieces, reason)
        self._received_at, self._first_at, self._reason = http_request.received_at, None, None

    async def __aenter__(self):
        self._server.metrics.prompt_tokens += self.prompt_tokens
        self._server.journal.access("start", self.id, {"route": self._route, "nonces": text.nonces(self._prompt)[:8]})
        self._server.engine.submit(self._request)
        return self

    async def __aiter__(self):
        while self._reason is None:
            piece, self._reason = await self._request.queue.get()
            if self._first_at is None:
                self._first_at = time.monotonic()
            if self._reason != "abort":
                self.completion_tokens += 1
            yield piece, self._reason

    async def __aexit__(self, kind, _error, _traceback):
        self._server.engine.cancel(self._request)
        now = time.monotonic()
        finished = self._reason is not None and kind is None
        if finished:
            first = self._first_at - self._received_at if self._first_at else None
            self._server.metrics.finished(self._reason, now - self._received_at, first)
        self._server.journal.access(
            "end", self.id,
            {"outcome": self._reason if finished else "cancelled", "tokens": self._request.emitted,
             "seconds": round(now - self._received_at, 3), "nonces": text.nonces(self._prompt)[:8]},
        )

    async def whole(self):
        """(text, reason, pieces) when all of it is wanted at once."""
        pieces, last = [], None
        async for piece, reason in self:
            pieces.append(piece)
            last = reason
        return "".join(pieces), last, pieces

    def usage(self):
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
        }


def invalid(message, param=None):
    """What the web framework finds wrong with a request before vLLM sees it. @param where, from `body` or `query` on"""
    return Refusal(400, f"1 validation error:\n  {message}", param=param)


def json_body(request):
    """The body as an object; vLLM's refusals otherwise."""
    if "application/json" not in request.headers.get("content-type", "").lower():
        raise invalid("Unsupported Media Type: Only 'application/json' is allowed")
    try:
        body = json.loads(request.body)
    except ValueError as error:
        raise invalid(f"JSON decode error: {error}", f"body.{getattr(error, 'pos', 0)}") from None
    if not isinstance(body, dict):
        raise invalid("Input should be a valid dictionary or object to extract fields from", "body")
    return body


def model_of(server, body):
    """The name that answers carry, which is the first whichever was used; 404 for one that is not served."""
    name = body.get("model")
    if name is None or name == "":
        return server.names[0]
    if name not in server.names:
        raise Refusal(404, f"The model `{name}` does not exist. Valid aliases: {', '.join(server.names)}.", "NotFoundError", "model")
    return server.names[0]


def whole_number(body, name, least=0):
    """An optional whole number of the body."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid("Input should be a valid integer", f"body.{name}")
    if not least <= value <= MAX_TOKENS_MAX:
        raise Refusal(400, f"{name} must be at least {least}, got {value}. (parameter={name}, value={value})", "BadRequestError", name)
    return value


def answer_for(server, http_request, body, prompt, limit, prefix="cmpl"):
    """A Generation for a prompt; `limit` is the client's bound on tokens, None for none."""
    if body.get("n") not in (None, 1):
        raise Refusal(400, "The simulated engine gives one choice: n must be 1.", "BadRequestError", "n")
    used, longest = text.count_tokens(prompt), server.max_model_len
    if limit is not None and limit > longest:
        raise Refusal(
            400,
            f"max_tokens={limit} cannot be greater than max_model_len={longest}. Please request fewer output tokens. "
            f"(parameter=max_tokens, value={limit})",
            "BadRequestError", "max_tokens",
        )
    room = longest - used
    if room <= 0:
        raise Refusal(
            400,
            f"This model's maximum context length is {longest} tokens. However, your prompt contains at least {used} input tokens, which "
            "exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
            f"(parameter=input_tokens, value={used})",
            "BadRequestError", "input_tokens",
        )
    # What does not fit any more is cut, not refused.
    most = room if limit is None else min(limit, room)
    least = int(server.parameters.current()["answerTokens"])
    least = max(least, whole_number(body, "min_tokens") or 0)
    if body.get("ignore_eos") is True:
        least = most
    pieces, reason = text.pieces(prompt, min(least, room), most)
    return Generation(server, http_request, prompt, pieces, reason, prefix)


def content_text(content):
    """A message's content: a string, or parts of which those with text count."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return ""


def last_user_text(messages):
    """What the last message of the user says; of any role when no user spoke."""
    if messages is None:
        raise invalid("Field required", "body.messages")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise invalid("Input should be a valid list", "body.messages")
    if not messages:
        raise Refusal(400, "Cannot apply chat template to an empty conversation. Provide at least one message.", "BadRequestError")
    own = [m for m in messages if m.get("role") == "user"] or messages
    return content_text(own[-1].get("content"))


def event(data, name=None):
    """A server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {data if isinstance(data, str) else json.dumps(data, separators=(',', ':'))}\n\n".encode()
