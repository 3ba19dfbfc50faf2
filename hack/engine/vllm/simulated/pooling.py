"""Embeddings, scores, ranks, classes and raw pooling: each input takes one step of the engine."""

import os
import time

from . import text
from .generation import Generation, json_body, model_of
from .http_server import Refusal

INPUTS_MAX = 2048


def _texts(value, name):
    """A text, a list of texts, or a list of objects with a text."""
    items = value if isinstance(value, list) else [value]
    if items and all(isinstance(item, int) for item in items):
        items = [" ".join(str(item) for item in items)]
    result = []
    for item in items[:INPUTS_MAX]:
        if isinstance(item, dict) and isinstance(item.get("text"), str):
            item = item["text"]
        if isinstance(item, list):
            item = " ".join(str(part) for part in item)
        if not isinstance(item, str):
            raise Refusal(400, f"{name} must be a text or a list of texts.", param=name)
        result.append(item)
    if not result:
        raise Refusal(400, f"{name} must not be empty.", param=name)
    return result


async def _compute(server, request, texts):
    """One step for each input, so that the token log shows the memory held. Returns the tokens read."""
    prompt = "\n".join(texts)
    async with Generation(server, request, prompt, [""] * len(texts), "stop", "pool") as answer:
        await answer.whole()
    return answer.id, sum(text.count_tokens(each) for each in texts)


def _envelope(request_id, model, kind, data, tokens):
    return {"id": request_id, "object": "list", "created": int(time.time()), "model": model, "data": data,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}}


async def embed(server, request, reply):
    body = json_body(request)
    model = model_of(server, body)
    texts = _texts(body.get("input"), "input")
    size = body.get("dimensions") or server.hidden_size
    request_id, tokens = await _compute(server, request, texts)
    vectors = [text.vector(" ".join(text.GARBLE) if server.engine.garbled else each, size) for each in texts]
    data = [{"index": i, "object": "embedding", "embedding": vector} for i, vector in enumerate(vectors)]
    reply.json(_envelope(request_id, model, "embedding", data, tokens))


async def pool(server, request, reply):
    body = json_body(request)
    model = model_of(server, body)
    texts = _texts(body.get("input"), "input")
    request_id, tokens = await _compute(server, request, texts)
    data = [{"index": i, "object": "pooling", "data": text.vector(each, server.hidden_size)} for i, each in enumerate(texts)]
    reply.json(_envelope(request_id, model, "pooling", data, tokens))


async def classify(server, request, reply):
    body = json_body(request)
    model = model_of(server, body)
    texts = _texts(body.get("input"), "input")
    request_id, tokens = await _compute(server, request, texts)
    data = []
    for i, each in enumerate(texts):
        yes = _likeness(each, "yes")
        data.append({"index": i, "label": "LABEL_1" if yes > 0.5 else "LABEL_0", "probs": [1 - yes, yes], "num_classes": 2})
    reply.json(_envelope(request_id, model, "classify", data, tokens))


def _likeness(one, other):
    """How alike two texts are, 0 to 1: the share of words that they have in common, shifted by their vectors."""
    words, others = set(one.lower().split()), set(other.lower().split())
    shared = len(words & others) / max(1, len(words | others))
    cosine = sum(a * b for a, b in zip(text.vector(one, 16), text.vector(other, 16)))
    return 0.8 * shared + 0.1 * (cosine + 1)


async def score(server, request, reply):
    body = json_body(request)
    model = model_of(server, body)
    first = _texts(body.get("text_1", body.get("queries")), "text_1")
    second = _texts(body.get("text_2", body.get("documents")), "text_2")
    if len(first) not in (1, len(second)):
        raise Refusal(400, "text_1 must hold one text or as many as text_2.", param="text_1")
    pairs = list(zip(first * len(second) if len(first) == 1 else first, second))
    request_id, tokens = await _compute(server, request, [f"{a}\n{b}" for a, b in pairs])
    data = [{"index": i, "object": "score", "score": _likeness(a, b)} for i, (a, b) in enumerate(pairs)]
    reply.json(_envelope(request_id, model, "score", data, tokens))


async def rerank(server, request, reply):
    body = json_body(request)
    model = model_of(server, body)
    query = _texts(body.get("query"), "query")[0]
    documents = _texts(body.get("documents"), "documents")
    _, tokens = await _compute(server, request, [f"{query}\n{document}" for document in documents])
    ranked = sorted(
        ({"index": i, "document": {"text": each, "multi_modal": None}, "relevance_score": _likeness(query, each)}
         for i, each in enumerate(documents)),
        key=lambda result: -result["relevance_score"],
    )
    top = body.get("top_n") or len(ranked)
    reply.json({"id": f"rerank-{os.urandom(12).hex()}", "model": model, "results": ranked[:top],
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})
