"""Names an image by all that shapes its bytes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

# Raise it when what an image holds changes.
IMAGE_VERSION = 1
_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_SHAPING_FILES = (".safetensors", ".bin", ".pt", "config.json")


def model_identity(model: str, revision: str | None) -> list[object]:
    """A published folder org--name/<commit> never changes; another one is known by its files' sizes and times."""
    path = Path(model)
    if _COMMIT.match(path.name) and path.parent.name:
        return [path.parent.name, path.name]
    if not path.is_dir():
        return [model, revision]
    files = sorted(p for p in path.iterdir() if p.name.endswith(_SHAPING_FILES))
    return [str(path.resolve()), *([p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files)]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def key_of(facts: Mapping[str, object]) -> str:
    """@param facts plain values; see facts.py for which"""
    return _short(json.dumps({"image": IMAGE_VERSION, **facts}, sort_keys=True))


def image_name(key: str, layout_text: str) -> str:
    """Of a file: facts and layout. Engines whose facts agree and whose layouts do not have one each."""
    return f"{key}-{_short(layout_text)}.image"
