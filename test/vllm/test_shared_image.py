"""Two engines that boot from the image that a first one wrote, and map it: their weights are the same pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import publish
from engine import Engine, Streams, pss

PROMPTS = ["hello world", "the quick brown fox jumps over"]


@pytest.fixture(scope="module")
def answers(start, pool: Path) -> list[list[int]]:
    """Of an engine that read the weights from disk, wrote the image and ended."""
    writer = start("writer").wait()
    assert "model loaded from weights" in writer.words()
    found = [writer.complete(prompt) for prompt in PROMPTS]
    publish(pool)
    writer.stop()
    return found


@pytest.fixture(scope="module")
def engines(start, answers: list[list[int]]) -> Iterator[list[Engine]]:
    # One after the other: two boots at once would need both models' memory twice.
    begun = [start(name, wake="map").wait() for name in ("first", "second")]
    yield begun
    for engine in begun:
        engine.stop()


def test_they_boot_from_the_image(engines: list[Engine], pool: Path) -> None:
    for engine in engines:
        assert "model loaded from an image" in engine.words()
        assert engine.stats()["image"].startswith(f"{pool}/images/")
    assert len(list(pool.glob("pods/*/*.image"))) == 1


def test_they_answer_as_the_one_that_loaded_weights(engines: list[Engine], answers: list[list[int]]) -> None:
    for engine in engines:
        assert [engine.complete(prompt) for prompt in PROMPTS] == answers


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
    engines[0].wake()
    assert streams.join() == undisturbed
