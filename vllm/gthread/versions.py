"""Which releases of vLLM the plug-in knows: it leans on classes and fields that vLLM promises to nobody."""

from __future__ import annotations

import re

SUPPORTED = ((0, 32),)
SUPPORTED_TEXT = ", ".join(f"{major}.{minor}.x" for major, minor in SUPPORTED)


class UnsupportedVersion(RuntimeError):
    """The text says what is there, what is supported and what to do."""


def is_supported(version: str) -> bool:
    """@param version as `vllm.__version__` has it: 0.32.0, 0.32.1rc1, 0.32.0+cpu"""
    match = re.match(r"^(\d+)\.(\d+)(?:\.|$|[^\d.])", version)
    return match is not None and (int(match[1]), int(match[2])) in SUPPORTED


def require_supported(version: str) -> None:
    """@raises UnsupportedVersion"""
    if not is_supported(version):
        raise UnsupportedVersion(
            f"gthread supports vLLM {SUPPORTED_TEXT}; this is {version}. "
            "Use an image of a supported release (spec.vllmImage), or set spec.loadFormat: auto."
        )
