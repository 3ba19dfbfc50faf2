"""One engine that boots while its weights are still being staged, then sleeps and wakes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import publish
from engine import Engine, Staging, Streams

PROMPTS = ["hello world", "the quick brown fox jumps over", "a lazy dog " * 30]
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def engine(start, form: Path, pool: Path) -> Iterator[Engine]:
    staging = Staging(form, pool, hold_at=300 * MIB)
    begun = start("staged")

    # The rest is staged once the engine has asked for weights that are not there yet.
    def release() -> None:
        while begun.process.poll() is None and "weights from" not in begun.words():
            time.sleep(0.05)
        time.sleep(2)
        staging.release()

    threading.Thread(target=release, daemon=True).start()
    yield begun.wait()
    begun.stop()


@pytest.fixture(scope="module")
def answers(engine: Engine) -> list[list[int]]:
    return [engine.complete(prompt) for prompt in PROMPTS]


def test_it_loads_from_the_pool_while_that_fills(engine: Engine, pool: Path) -> None:
    assert f"weights from {pool}/staged/" in engine.words()
    assert "from disk" not in engine.words()


def test_it_writes_its_image_where_the_agent_takes_it(engine: Engine, pool: Path) -> None:
    images = list((pool / "pods" / "staged").iterdir())
    assert [path.suffix for path in images] == [".image"]
    assert engine.stats()["image"] == str(images[0])
    publish(pool)


@pytest.mark.parametrize("levels", [[1], [2], [1, 1, 2]])
def test_greedy_answers_are_the_same_after_sleeps(engine: Engine, answers: list[list[int]], levels: list[int]) -> None:
    assert len({tuple(answer) for answer in answers}) == len(PROMPTS)
    for level in levels[:-1]:
        engine.sleep(level)
        engine.wake()
    engine.sleep(levels[-1])
    assert engine.call("GET", "/is_sleeping")[1] == {"is_sleeping": True}
    engine.wake()
    assert [engine.complete(prompt) for prompt in PROMPTS] == answers


def test_a_sleep_frees_the_weights_memory_and_the_cache(engine: Engine) -> None:
    awake = engine.stats()
    engine.sleep()
    asleep = engine.stats()
    engine.wake()
    weights = awake["weightsBytes"]
    for state, stats in (("awake", awake), ("asleep", asleep)):
        print(state, {kind: round(size / 1e6) for kind, size in stats["resident"].items()}, "MB", stats["last"])
    assert weights > 1.2e9
    for kind in ("VmRSS", "RssAnon"):
        # The weights, and what of the cache was ever written.
        assert 0.99 * weights <= awake["resident"][kind] - asleep["resident"][kind] < 1.1 * weights, kind
    assert asleep["asleep"] == ["kv_cache", "weights"]
    # The image, and no longer what it was loaded from.
    assert asleep["resident"]["RssShmem"] < 1.1 * weights


def test_streams_in_flight_go_on_as_if_nothing_had_been(engine: Engine) -> None:
    undisturbed = Streams(engine, PROMPTS, 60).join()
    for _ in range(3):
        streams = Streams(engine, PROMPTS, 60)
        streams.wait_for(10)
        engine.sleep()
        asleep_since = time.monotonic()
        time.sleep(1)
        woken_at = time.monotonic()
        engine.wake()
        assert streams.join() == undisturbed
        for times in streams.at:
            assert not [at for at in times if asleep_since + 0.5 < at < woken_at]
            assert max(times) > woken_at


def test_a_request_that_comes_asleep_waits_and_is_answered_right(engine: Engine, answers: list[list[int]]) -> None:
    engine.sleep()
    streams = Streams(engine, [PROMPTS[0]], 40)
    time.sleep(0.5)
    assert streams.tokens == [[]]
    engine.wake()
    assert streams.join() == [answers[0]]


def test_resume_while_asleep_is_refused_and_poisons_nothing(engine: Engine, answers: list[list[int]]) -> None:
    engine.sleep()
    status, answer = engine.call("POST", "/resume")
    assert status == 500
    assert "resume refused" in str(answer)
    engine.wake()
    assert [engine.complete(prompt) for prompt in PROMPTS] == answers


@pytest.mark.parametrize("method", ["sleep", "wake_up", "discard", "start_weight_update"])
def test_a_workers_method_that_is_the_engines_own_is_refused(engine: Engine, answers: list[list[int]], method: str) -> None:
    status, answer = engine.rpc(method)
    assert status == 500
    assert f"{method} refused" in str(answer)
    assert engine.complete(PROMPTS[0]) == answers[0]


def test_a_wake_as_from_stock_level_2_has_the_same_weights(engine: Engine, answers: list[list[int]]) -> None:
    engine.sleep(2)
    assert engine.rpc("reload_weights")[0] == 500
    assert engine.call("POST", "/wake_up?tags=weights")[0] == 200
    assert engine.rpc("reload_weights")[0] == 200
    assert engine.call("POST", "/wake_up?tags=kv_cache")[0] == 200
    assert [engine.complete(prompt) for prompt in PROMPTS] == answers


@pytest.mark.parametrize("method", ["compute_weight_checksums", "execute_dummy_batch"])
def test_the_worker_refuses_to_touch_weights_while_asleep(engine: Engine, answers: list[list[int]], method: str) -> None:
    engine.sleep()
    status, answer = engine.rpc(method)
    assert status == 500
    assert f"{method} refused" in str(answer)
    engine.wake()
    assert engine.complete(PROMPTS[0]) == answers[0]


def test_tags_can_be_woken_one_by_one(engine: Engine, answers: list[list[int]]) -> None:
    engine.sleep()
    assert engine.call("POST", "/wake_up?tags=weights")[0] == 200
    assert engine.stats()["asleep"] == ["kv_cache"]
    assert engine.call("POST", "/wake_up?tags=kv_cache")[0] == 200
    assert engine.stats()["asleep"] == []
    assert engine.complete(PROMPTS[0]) == answers[0]
