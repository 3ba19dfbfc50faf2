"""Where things lie, by the pod's environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from gthread.places import SettingError, read_places
from gthread.versions import UnsupportedVersion, is_supported, require_supported

POD = {
    "GREENTHREAD_WEIGHTS": "/mnt/models/org--name/c0ffee.gthread-1",
    "GREENTHREAD_POOL": "/run/greenthread/pool",
    "GREENTHREAD_IMAGE_DIR": "/run/greenthread/image",
    "GREENTHREAD_ENGINE_HASH": "abc123",
}


def test_in_a_pod() -> None:
    places = read_places(POD)
    assert places.form == Path("/mnt/models/org--name/c0ffee.gthread-1")
    assert places.staged == Path("/run/greenthread/pool/staged/org--name@c0ffee")
    assert places.shared_images == Path("/run/greenthread/pool/images/abc123")
    assert places.own_images == Path("/run/greenthread/image")
    assert not places.map_weights


def test_by_hand_there_is_a_folder_of_ones_own() -> None:
    places = read_places({"GREENTHREAD_WAKE": "map"})
    assert (places.form, places.staged, places.shared_images) == (None, None, None)
    assert str(places.own_images).startswith("/dev/shm/gthread-")
    assert places.map_weights


@pytest.mark.parametrize(
    "wrong",
    [
        {"GREENTHREAD_WEIGHTS": "/mnt/models/org--name/c0ffee.gthread-2"},
        {"GREENTHREAD_WEIGHTS": "/mnt/models/org--name/c0ffee"},
        {"GREENTHREAD_ENGINE_HASH": "../other"},
        {"GREENTHREAD_WAKE": "fast"},
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, str]) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong))):
        read_places({**POD, **wrong})


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("0.32.0", True),
        ("0.32.1rc1", True),
        ("0.32.0+cpu", True),
        ("0.32", True),
        ("0.320.0", False),
        ("0.3", False),
        ("0.33.0", False),
        ("1.32.0", False),
        ("dev", False),
    ],
)
def test_releases_of_vllm(version: str, known: bool) -> None:
    assert is_supported(version) is known


def test_an_unknown_release_is_told_what_to_do() -> None:
    with pytest.raises(UnsupportedVersion, match=r"supports vLLM 0\.32\.x; this is 0\.33\.0.*loadFormat: auto"):
        require_supported("0.33.0")
