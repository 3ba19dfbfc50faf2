"""An image: written once, whole or not at all, with a hash for each storage."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from gthread import image_file, memory
from gthread.image_file import find_by_key, find_image, open_image, open_or_write, write_image
from gthread.image_key import image_name, key_of, model_identity
from gthread.image_layout import ImageError, Layout, TensorPlace, plan

SIZES = [3_000_000, 40, 5000]
CONTENT = [os.urandom(size) for size in SIZES]
FACTS: dict[str, object] = {"dtype": "float32", "rank": 0}


def place(name: str, kind: str = "parameter") -> TensorPlace:
    return TensorPlace(name, kind, "uint8", (1,), (1,), 0)


def a_layout() -> Layout:
    """Of SIZES; the one in the middle is a buffer, so it comes last."""
    kinds = ["parameter", "buffer", "parameter"]
    return plan((size, (place(f"t{i}", kind),)) for i, (size, kind) in enumerate(zip(SIZES, kinds, strict=True)))


def content_of(layout: Layout, number: int) -> bytes:
    return CONTENT[int(layout.storages[number].tensors[0].name[1:])]


def written(folder: Path) -> Path:
    layout = a_layout()
    return write_image(folder, "k-l.image", layout, FACTS, lambda number: [memoryview(content_of(layout, number))])


def test_what_a_sleep_frees_makes_one_run_without_gaps_that_matter() -> None:
    layout = a_layout()
    assert [s.tensors[0].name for s in layout.storages] == ["t0", "t2", "t1"]
    assert layout.storages[1].offset - SIZES[0] < 256
    assert layout.run_bytes % memory.PAGE_BYTES == 0
    assert SIZES[0] + SIZES[2] <= layout.run_bytes <= layout.storages[2].offset
    assert layout.data_bytes % memory.HUGE_PAGE_BYTES == 0


def test_a_storage_with_a_buffer_in_it_is_not_freed() -> None:
    mixed = plan([(8, (place("a"), place("b", "buffer")))])
    assert mixed.run_bytes == 0


def test_it_reads_back_as_it_was_written(tmp_path: Path) -> None:
    image = open_image(written(tmp_path))
    assert image.facts == FACTS
    assert [s.tensors for s in image.layout.storages] == [s.tensors for s in a_layout().storages]
    for number, storage in enumerate(image.layout.storages):
        assert bytes(image.view(storage)) == content_of(image.layout, number)
    assert bytes(memory.view_of(image.run_address, 5)) == CONTENT[0][:5]
    assert stat.S_IMODE(image.path.stat().st_mode) == 0o444
    assert os.listdir(tmp_path) == ["k-l.image"]


def test_its_pages_can_be_mapped_ahead_and_dropped(tmp_path: Path) -> None:
    image = open_image(written(tmp_path))
    assert image.prefault()
    image.unmap_pages()
    assert bytes(image.view(image.layout.storages[0])) == CONTENT[0]


def test_the_first_writer_wins(tmp_path: Path) -> None:
    first = written(tmp_path).stat().st_ino
    assert written(tmp_path).stat().st_ino == first


@pytest.mark.parametrize("part", ["head", "index", "data", "end"])
def test_a_changed_byte_is_seen(tmp_path: Path, part: str) -> None:
    path = written(tmp_path)
    size = path.stat().st_size
    at = {"head": 3, "index": 60, "data": memory.HUGE_PAGE_BYTES + 7, "end": size - 1}[part]
    image_file._verified.clear()
    path.chmod(0o600)
    with path.open("r+b") as file:
        if part == "end":
            file.truncate(at)
        else:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(ImageError):
        open_image(path)


@pytest.mark.parametrize("length", [0, 10, 48, 100])
def test_a_stump_is_no_image(tmp_path: Path, length: int) -> None:
    path = written(tmp_path)
    (tmp_path / "stump").write_bytes(path.read_bytes()[:length])
    with pytest.raises(ImageError):
        open_image(tmp_path / "stump")


def test_an_index_whose_storages_overlap_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    layout = a_layout()
    moved = replace(layout, storages=(layout.storages[0], replace(layout.storages[1], offset=10), layout.storages[2]))
    path = write_image(tmp_path, "k-m.image", moved, FACTS, lambda number: [memoryview(content_of(moved, number))])
    with pytest.raises(ImageError, match="overlap"):
        open_image(path)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_storage_of_another_size_leaves_nothing(tmp_path: Path) -> None:
    for wrong in (b"short", b"long" * 1_000_000):
        with pytest.raises(ImageError):
            write_image(tmp_path, "k-l.image", a_layout(), FACTS, lambda _, w=wrong: [memoryview(w)])
        assert os.listdir(tmp_path) == []


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    (tmp_path / "x.image.999999999.partial").write_bytes(b"")
    (tmp_path / f"y.image.{os.getppid()}.partial").write_bytes(b"")
    written(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["k-l.image", f"y.image.{os.getppid()}.partial"]


def test_large_storages_go_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_file, "CHUNK_BYTES", 1000)
    image = open_image(written(tmp_path))
    assert bytes(image.view(image.layout.storages[0])) == CONTENT[0]


def test_images_are_found_by_name_and_by_key(tmp_path: Path) -> None:
    pool, own = tmp_path / "pool", tmp_path / "own"
    written(own)
    assert find_image([None, pool, own], "k-l.image") == own / "k-l.image"
    assert find_image([pool], "k-l.image") is None
    (own / "k-l.image.5.partial").write_bytes(b"")
    (own / "kk-l.image").write_bytes(b"")
    assert find_by_key([None, pool, own], "k") == [own / "k-l.image"]


def test_a_folder_that_may_not_be_read_has_no_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    own = tmp_path / "own"
    written(own)
    monkeypatch.setattr(Path, "is_file", refused)
    monkeypatch.setattr(Path, "iterdir", refused)
    assert find_image([own], "k-l.image") is None
    assert find_by_key([own], "k") == []


def test_the_key_knows_every_fact_and_not_their_order() -> None:
    facts: dict[str, object] = {"a": 1, "b": {"c": None}}
    assert key_of(facts) == key_of({"b": {"c": None}, "a": 1})
    assert len({key_of(facts), key_of({**facts, "a": 2}), key_of({**facts, "d": 0})}) == 3
    assert image_name("k", "x") != image_name("k", "y")


def test_a_published_model_is_known_by_its_commit_and_another_by_its_files(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert model_identity(f"/mnt/models/org--name/{commit}", None) == ["org--name", commit]
    (tmp_path / "config.json").write_text("{}")
    before = model_identity(str(tmp_path), None)
    (tmp_path / "model.safetensors").write_bytes(b"1")
    assert model_identity(str(tmp_path), None) != before
    assert model_identity("org/name", "main") == ["org/name", "main"]


def damage(path: Path) -> None:
    start = open_image(path, verify=False).start
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"damage" * 1000)
    image_file._verified.clear()


def test_an_image_is_taken_where_it_is_sound_and_else_written_anew(tmp_path: Path) -> None:
    own, spare, said = tmp_path / "own", tmp_path / "spare", []
    image = open_or_write(None, [own, spare], "k-l.image", written, said.append)
    assert (image.path.parent, said) == (own, [])
    assert open_or_write(own, [spare], "k-l.image", written, said.append).path.parent == own
    damage(own / "k-l.image")
    assert open_or_write(None, [own, spare], "k-l.image", written, said.append).path.parent == own
    assert "is not used" in said[0]
    assert open_image(own / "k-l.image")


def notes(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.suffix == ".damaged"}


def test_all_engines_damaged_image_is_noted_for_the_agent(tmp_path: Path) -> None:
    shared, own, spare = tmp_path / "shared", tmp_path / "own", tmp_path / "spare"
    assert open_or_write(written(shared).parent, [own, spare], "k-l.image", written, lambda _: None).path.parent == shared
    assert not own.exists(), "a sound one is no news"
    damage(shared / "k-l.image")
    assert open_or_write(shared, [own, spare], "k-l.image", written, lambda _: None).path.parent == own
    assert notes(own) == {"k-l.image.damaged": str((shared / "k-l.image").stat().st_ino)}


def test_one_that_cannot_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    written(shared)

    def refuse(path: Path, verify: bool = True) -> image_file.Image:
        if path.parent == shared:
            raise OSError(errno.EMFILE, "Too many open files")
        return open_image(path, verify)

    monkeypatch.setattr(image_file, "open_image", refuse)
    assert open_or_write(shared, [own], "k-l.image", written, lambda _: None).path.parent == own
    assert notes(own) == {}


def test_a_damaged_image_that_cannot_be_removed_is_never_taken_for_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, spare = tmp_path / "own", tmp_path / "spare"
    damage(written(own))

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert open_or_write(own, [own, spare], "k-l.image", written, lambda _: None).path.parent == spare
    damage(spare / "k-l.image")
    os.unlink(spare / f"k-l.image.{os.getpid()}.partial")
    with pytest.raises(ImageError):
        open_or_write(own, [own, spare], "k-l.image", written, lambda _: None)


def test_a_second_name_that_stays_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert open_image(written(tmp_path))
    assert len({path.stat().st_ino for path in tmp_path.iterdir()}) == 1
