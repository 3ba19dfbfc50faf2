"""Where weights, images and their pool lie, as the pod's environment says (docs/weights.md)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Name of a published gthread form: <commit>.gthread-1, in a folder org--name.
_FORM_FOLDER = re.compile(r"^(?P<commit>[^/]+)\.gthread-1$")
_ENGINE_HASH = re.compile(r"^[A-Za-z0-9._-]{1,128}$")


class SettingError(Exception):
    """A wrong start; the text names the variable and the remedy."""


@dataclass(frozen=True)
class Places:
    """All of it may be None: then the plug-in keeps to a folder of its own, for a try by hand."""

    form: Path | None
    """The gthread form on disk."""
    staged: Path | None
    """The same bytes in the pool, if the agent stages them."""
    shared_images: Path | None
    """Finished images of this engine hash, read only."""
    own_images: Path
    """Where this process writes one."""
    map_weights: bool
    """CPU: weights are the shared image itself; else each engine has its own copy."""


def own_folder() -> Path:
    """Images of engines that no pod gives a place to: one folder for each user, shared by that user's engines."""
    return Path("/dev/shm") / f"gthread-{os.getuid()}"


def read_places(env: Mapping[str, str]) -> Places:
    """@raises SettingError naming the variable that is wrong"""
    form = env.get("GREENTHREAD_WEIGHTS") or None
    pool = env.get("GREENTHREAD_POOL") or None
    image_dir = env.get("GREENTHREAD_IMAGE_DIR") or None
    engine_hash = env.get("GREENTHREAD_ENGINE_HASH") or None
    wake = env.get("GREENTHREAD_WAKE") or "copy"
    if wake not in ("copy", "map"):
        raise SettingError("GREENTHREAD_WAKE must be copy or map")
    if engine_hash is not None and not _ENGINE_HASH.match(engine_hash):
        raise SettingError("GREENTHREAD_ENGINE_HASH must be letters, digits, dots and dashes: it is a folder's name")
    staged = None
    if form is not None:
        path = Path(form)
        match = _FORM_FOLDER.match(path.name)
        if match is None or not path.parent.name:
            raise SettingError(
                "GREENTHREAD_WEIGHTS must be a folder <models>/<org--name>/<commit>.gthread-1: the form that this release reads"
            )
        if pool is not None:
            staged = Path(pool) / "staged" / f"{path.parent.name}@{match['commit']}"
    return Places(
        form=None if form is None else Path(form),
        staged=staged,
        shared_images=Path(pool) / "images" / engine_hash if pool and engine_hash else None,
        own_images=Path(image_dir) if image_dir else own_folder(),
        map_weights=wake == "map",
    )
