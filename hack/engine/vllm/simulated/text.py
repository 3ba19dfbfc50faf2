"""What the simulated model says: the prompt's nonces, else its words, then filler that the prompt alone decides."""

import re
import zlib

NONCE = re.compile(r"nonce-[0-9a-fA-F]+")
ECHO_WORDS_MAX = 4096
TOKEN_IDS = 32_000
FILLER = (
    "the model answers with plain words so that a reader of the stream can see each token arrive in its order and none "
    "twice while memory is held and the engine stays awake"
).split()
# Said instead when the engine came back from a sleep with broken weights (wakeGarbles).
GARBLE = "0 1 0 1 0 1 0 1".split()


def count_tokens(text):
    """Tokens of a text: its words, at least one for a text that is not empty."""
    return len(text.split()) if text.strip() else 0


def token_ids(pieces):
    """Made-up ids: equal pieces have equal ones."""
    return [zlib.crc32(piece.encode()) % TOKEN_IDS for piece in pieces]


def nonces(text):
    return NONCE.findall(text)


def pieces(prompt, least, most):
    """The answer, token by token: the echo first, then filler up to `least` tokens; never more than `most`.

    Concatenated they are the answer. Returns (pieces, finish reason).
    """
    echo = nonces(prompt) or prompt.split()[:ECHO_WORDS_MAX] or ["empty"]
    start = zlib.crc32(prompt.encode())
    wanted = max(least, len(echo))
    words = echo + [FILLER[(start + i) % len(FILLER)] for i in range(wanted - len(echo))]
    reason = "stop"
    if most is not None and most <= len(words):
        words, reason = words[:most], "length"
    return [word if i == 0 else " " + word for i, word in enumerate(words)], reason


def logprob(piece, index):
    """A steady made-up log probability of a token at a place."""
    return -0.01 - (zlib.crc32(f"{index} {piece}".encode()) % 1000) / 2000


def named_ids(pieces):
    """Ids as vLLM names them where `return_tokens_as_token_ids` is set."""
    return [f"token_id:{number}" for number in token_ids(pieces)]


def likeliest(piece, value, count):
    """The chosen token and others less likely than it, `count` in all, to their log probabilities."""
    others = [" " + word for word in FILLER if " " + word != piece]
    start = zlib.crc32(piece.encode())
    ranked = {piece: value}
    for i in range(len(others)):
        if len(ranked) == count:
            break
        ranked.setdefault(others[(start + i) % len(others)], value - 1.0 - 0.25 * i)
    return ranked


def vector(text, size):
    """A unit vector that depends on the text alone."""
    values, seed = [], zlib.crc32(text.encode())
    for _ in range(size):
        seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
        values.append(seed / 0x40000000 - 1.0)
    norm = sum(value * value for value in values) ** 0.5 or 1.0
    return [value / norm for value in values]
