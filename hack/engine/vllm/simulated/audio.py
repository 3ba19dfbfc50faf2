"""/v1/audio/*: transcriptions and translations from a form, speech as a WAV file."""

import re
import struct

from . import text
from .generation import Generation, answer_for, event, json_body, model_of
from .http_server import Refusal

SAMPLES_PER_SECOND = 16000
SAMPLES_PER_TOKEN = 1600
SECONDS_PER_BYTE = 1 / (2 * SAMPLES_PER_SECOND)


def form(request):
    """A multipart form's fields: name to bytes. The file's bytes are in `file`."""
    match = re.search(r'boundary="?([^";]+)"?', request.headers.get("content-type", ""))
    if not match:
        raise Refusal(400, "Field required: file", param="file")
    fields = {}
    for part in request.body.split(b"--" + match[1].encode())[1:]:
        head, gap, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        if gap and name:
            fields[name[1].decode("utf-8", "replace")] = content.removesuffix(b"\r\n")
    return fields


def _heard(fields):
    """What the "speech" says: the nonces in the prompt or in the file's bytes."""
    prompt = fields.get("prompt", b"").decode("utf-8", "replace")
    found = text.nonces(prompt) or text.nonces(fields["file"].decode("latin-1"))
    return " ".join(found) or prompt or "speech without words"


async def transcribe(server, request, reply):
    fields = form(request)
    if "file" not in fields:
        raise Refusal(400, "Field required: file", param="file")
    model_name = fields.get("model", b"").decode("utf-8", "replace")
    model = model_of(server, {"model": model_name})
    shape = fields.get("response_format", b"json").decode()
    answer = answer_for(server, request, {}, _heard(fields), None, "trsc")
    seconds = max(1, round(len(fields["file"]) * SECONDS_PER_BYTE))
    if fields.get("stream", b"").lower() in (b"true", b"1"):
        async with answer:
            async for piece, reason in answer:
                if not reply.started:
                    reply.stream("text/event-stream; charset=utf-8")
                choice = {"delta": {"content": piece}, "finish_reason": reason, "stop_reason": None}
                await reply.write(event({"id": answer.id, "object": "transcription.chunk", "model": model, "choices": [choice]}))
            await reply.write(event("[DONE]"))
        return
    async with answer:
        content, _, _ = await answer.whole()
    if shape == "text":
        reply.bytes(content.encode(), "text/plain; charset=utf-8")
    elif shape == "verbose_json":
        reply.json({"duration": str(seconds), "language": "en", "text": content, "segments": [], "words": None})
    else:
        reply.json({"text": content, "usage": {"type": "duration", "seconds": seconds}})


async def speak(server, request, reply):
    body = json_body(request)
    model_of(server, body)
    words = body.get("input")
    if not isinstance(words, str) or not words:
        raise Refusal(400, "input must be a text.", param="input")
    count = max(1, text.count_tokens(words))
    async with Generation(server, request, words, [""] * count, "stop", "speech") as answer:
        await answer.whole()
    reply.bytes(_wav(words, count * SAMPLES_PER_TOKEN), "audio/wav")


def _wav(words, samples):
    """Silence with the spoken words in its comment, so that a test can tell whose answer it is."""
    comment = words.encode() + b"\0" * (2 - len(words.encode()) % 2)
    listed = b"LIST" + struct.pack("<I", 12 + len(comment)) + b"INFOICMT" + struct.pack("<I", len(comment)) + comment
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, SAMPLES_PER_SECOND, 2 * SAMPLES_PER_SECOND, 2, 16)
    data = struct.pack("<4sI", b"data", 2 * samples) + bytes(2 * samples)
    inside = b"WAVE" + layout + listed + data
    return b"RIFF" + struct.pack("<I", len(inside)) + inside
