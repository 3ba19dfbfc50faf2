"""Real engines for the tests in this folder. Run by any Python with pytest; vLLM's own is the one hack/vllm/install.sh makes."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import CACHE, PYTHON, REPOSITORY, Engine

MODEL_GIGABYTES = "1.2"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            if not PYTHON.exists():
                item.add_marker(pytest.mark.skip(reason="no vLLM here: run hack/vllm/install.sh"))


def _output(*command: str) -> str:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="session")
def model() -> Path:
    """A float32 model of 1.2 GB, so that near-ties cannot flip, published and converted as a Model's Job does it."""
    make = str(REPOSITORY / "hack/vllm/make_model.py")
    made = _output(str(PYTHON), make, "--gigabytes", MODEL_GIGABYTES, "--dtype", "float32")
    node = str(REPOSITORY / "node_modules/.bin/node")
    return Path(_output(node, str(REPOSITORY / "test/vllm/convert.ts"), made, str(CACHE / "vllm-test-models")))


@pytest.fixture(scope="session")
def form(model: Path) -> Path:
    return model.with_name(f"{model.name}.gthread-1")


@pytest.fixture(scope="module")
def pool() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="gthread-test-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


ENGINE_HASH = "h1"


@pytest.fixture(scope="module")
def start(model: Path, form: Path, pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """start(name, wake='copy' | 'map') → an engine as a model pod would have it, not awaited."""
    engines: list[Engine] = []
    folder = tmp_path_factory.mktemp("engines")

    def begin(name: str, wake: str = "copy", own: str | None = None) -> Engine:
        image_dir = pool / "pods" / (own or name)
        image_dir.mkdir(parents=True, exist_ok=True)
        env = {
            "GREENTHREAD_WEIGHTS": str(form),
            "GREENTHREAD_POOL": str(pool),
            "GREENTHREAD_IMAGE_DIR": str(image_dir),
            "GREENTHREAD_ENGINE_HASH": ENGINE_HASH,
            "GREENTHREAD_WAKE": wake,
        }
        flags = ["--dtype", "float32", "--load-format", "gthread", "--worker-cls", "gthread.worker.GThreadWorker"]
        engines.append(Engine(folder, name, model, flags, env))
        return engines[-1]

    yield begin
    for engine in engines:
        engine.stop()


def publish(pool: Path) -> None:
    """What the agent does with finished images: links them for every engine of the hash."""
    shared = pool / "images" / ENGINE_HASH
    shared.mkdir(parents=True, exist_ok=True)
    for image in pool.glob("pods/*/*.image"):
        if not (shared / image.name).exists():
            (shared / image.name).hardlink_to(image)
