"""Two engines that map one image, which the first wrote and the second booted from: their weights are the same pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import publish
from engine import Engine, Streams, pss

PROMPTS = ["hello world", "the quick brown fox jumps over"]


@pytest.fixture(scope="module")
def engines(start, pool: Path) -> Iterator[list[Engine]]:
    # One after the other: the second finds the first one's image.
    first = start("first", wake="map").wait()
    publish(pool)
    second = start("second", wake="map").wait()
    yield [first, second]
    first.stop()
    second.stop()


@pytest.fixture(scope="module")
def answers(engines: list[Engine]) -> list[list[int]]:
    """Of the one that read the weights from disk, before any sleep."""
    found = [engines[0].complete(prompt) for prompt in PROMPTS]
    assert found[0] != found[1]
    return found


def test_one_loads_weights_from_disk_and_the_other_its_image(engines: list[Engine], form: Path, pool: Path) -> None:
    first, second = engines
    assert f"weights from {form}" in first.words()
    assert "read unchecked" not in first.words()
    assert "model loaded from weights" in first.words()
    assert "model loaded from an image" in second.words()
    assert second.stats()["image"].startswith(f"{pool}/images/")
    images = list(pool.glob("pods/*/*.image"))
    assert [path.parent.name for path in images] == ["first"]


def test_the_other_one_answers_the_same(engines: list[Engine], answers: list[list[int]]) -> None:
    assert [engines[1].complete(prompt) for prompt in PROMPTS] == answers


def test_awake_they_share_the_weights_pages(engines: list[Engine], answers: list[list[int]]) -> None:
    for engine in engines:
        engine.complete(PROMPTS[0])
    for engine in engines:
        stats = engine.stats()
        memory = pss(stats["pid"])
        shared = memory["Pss_Shmem"]
        print({kind: round(size / 1e6) for kind, size in memory.items()}, "MB,", round(stats["weightsBytes"] / 1e6), "of weights")
        assert 0.45 * stats["weightsBytes"] < shared < 0.6 * stats["weightsBytes"]


def test_one_sleeps_and_the_other_goes_on(engines: list[Engine], answers: list[list[int]]) -> None:
    first, second = engines
    first.sleep()
    assert pss(first.stats()["pid"])["Pss_Shmem"] < 50e6
    assert second.complete(PROMPTS[1]) == answers[1]
    first.wake()
    assert [first.complete(prompt) for prompt in PROMPTS] == answers


def test_streams_of_a_mapped_model_go_on_over_a_sleep(engines: list[Engine]) -> None:
    undisturbed = Streams(engines[0], PROMPTS, 40).join()
    streams = Streams(engines[0], PROMPTS, 40)
    streams.wait_for(5)
    engines[0].sleep()
    assert max(map(len, streams.tokens)) < 40
    engines[0].wake()
    assert streams.join() == undisturbed
