"""Writes an image once, finds it, maps it read-only, checks it.

Each storage carries a blake3: of the hashes that vLLM already brings along it is the fastest here (several GB/s a core, where the
standard library's sha256 and blake2b stay near one), and it is cryptographic.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from blake3 import blake3

from . import memory
from .image_layout import (
    HASH_BYTES,
    ImageError,
    Layout,
    StoragePlace,
    data_start,
    decode_index,
    encode_head,
    encode_index,
    index_start,
    read_head,
)

# At once from a storage to the file: large enough for the disk's sake, small enough to be still in a cache when it is hashed.
CHUNK_BYTES = 16 * 1024 * 1024
# Behind an image's name: the note that this one is damaged (docs/weights.md).
DAMAGED = ".damaged"
_PARTIAL = re.compile(r"\.(?P<pid>\d+)\.partial$")

ReadStorage = Callable[[int], Iterable[memoryview]]
"""Contents of the storage of that number, in pieces; a piece is done with when the next is asked for."""


@dataclass
class Image:
    """A mapped, checked image. The mapping lives as long as the process: tensors may lie in it."""

    path: Path
    layout: Layout
    facts: dict[str, object]
    mapping: memory.Mapping
    start: int

    def address(self, storage: StoragePlace) -> int:
        return self.mapping.address + self.start + storage.offset

    @property
    def run_address(self) -> int:
        return self.mapping.address + self.start

    def view(self, storage: StoragePlace) -> memoryview:
        return self.mapping.view(self.start + storage.offset, storage.bytes)

    def prefault(self) -> bool:
        """Maps every page, so that a copy out of it meets no fault. @returns whether the kernel knows how"""
        return memory.try_advise(self.run_address, self.layout.run_bytes, memory.MADV_POPULATE_READ)

    def unmap_pages(self) -> None:
        """From this process alone; the bytes stay where they are."""
        memory.free_pages(self.mapping.address, self.mapping.bytes)


# Files whose hashes this process has seen to be right; nobody writes to a published one.
_verified: set[tuple[int, int]] = set()


def open_image(path: Path, verify: bool = True) -> Image:
    """@param verify False only for one that this process has just written. @raises ImageError, OSError"""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        size, identity = status.st_size, (status.st_dev, status.st_ino)
        layout, facts, start = _read_index(descriptor, path.name, size)
        mapping = memory.map_file(descriptor, size)
    finally:
        os.close(descriptor)
    image = Image(path, layout, facts, mapping, start)
    if verify and identity not in _verified:
        for storage in layout.storages:
            if _hash([image.view(storage)]) != storage.blake3:
                mapping.close()
                names = ", ".join(tensor.name for tensor in storage.tensors[:3])
                raise ImageError(f"{path.name}: the bytes of {names} do not have the hash that they should")
    _verified.add(identity)
    return image


def read_layout(path: Path) -> Layout:
    """Where its tensors lie; nothing is known of their bytes. @raises ImageError, OSError"""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _read_index(descriptor, path.name, os.fstat(descriptor).st_size)[0]
    finally:
        os.close(descriptor)


def _read_index(descriptor: int, name: str, size: int) -> tuple[Layout, dict[str, object], int]:
    """@returns layout, facts, and where the first storage begins"""
    length, digest = read_head(os.pread(descriptor, index_start(), 0), size)
    index = os.pread(descriptor, length, index_start())
    if blake3(index).digest() != digest:
        raise ImageError(f"{name}: its index does not have the hash that it should")
    layout, facts = decode_index(index, size)
    return layout, facts, data_start(length)


def _hash(pieces: Iterable[memoryview]) -> str:
    hasher = blake3()
    for piece in pieces:
        for at in range(0, len(piece), CHUNK_BYTES):
            hasher.update(piece[at : at + CHUNK_BYTES])
    return hasher.hexdigest()


def find_image(folders: Iterable[Path | None], name: str) -> Path | None:
    """In the first folder that has it; one that may not be read has none."""
    for folder in folders:
        with contextlib.suppress(OSError):
            if folder is not None and (folder / name).is_file():
                return folder / name
    return None


def find_by_key(folders: Iterable[Path | None], key: str) -> list[Path]:
    """All of that key, whatever their layout, in the folders' order."""
    found: list[Path] = []
    for folder in folders:
        with contextlib.suppress(OSError):
            if folder is not None:
                found += sorted(path for path in folder.iterdir() if path.name.startswith(f"{key}-") and path.suffix == ".image")
    return found


def write_image(folder: Path, name: str, layout: Layout, facts: dict[str, object], read: ReadStorage) -> Path:
    """Under another name first, then linked to its own: who sees an image sees a whole one; the first of several writers wins.

    @raises OSError, ENOSPC before anything is copied: the room is taken at once
    """
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    remove_leftovers(folder)
    unhashed = replace(layout, storages=tuple(replace(s, blake3="0" * 2 * HASH_BYTES) for s in layout.storages))
    start = data_start(len(encode_index(unhashed, facts)))
    partial = folder / f"{name}.{os.getpid()}.partial"
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, start + layout.data_bytes)
        storages = []
        for number, storage in enumerate(layout.storages):
            digest = _hash(_written(descriptor, start + storage.offset, storage.bytes, read(number)))
            storages.append(replace(storage, blake3=digest))
        index = encode_index(replace(layout, storages=tuple(storages)), facts)
        _write(descriptor, memoryview(encode_head(index, blake3(index).digest())), 0)
        os.fchmod(descriptor, 0o444)
        with contextlib.suppress(FileExistsError):
            os.link(partial, folder / name)
    finally:
        os.close(descriptor)
        # The agent may have linked the image already, and made it root's: then this second name stays, and costs nothing.
        with contextlib.suppress(OSError):
            partial.unlink()
    return folder / name


def open_or_write(
    shared: Path | None, writable: Sequence[Path], name: str, write: Callable[[Path], Path], say: Callable[[str], None]
) -> Image:
    """The first image that has its hashes; one that has not is passed over, and a new one written where its name is free.

    In a pod's own folder a damaged one may be root's by now, as the agent had linked it: it can neither be removed nor replaced
    from here. A note asks the agent to.
    @param writable the pod's own folder, then one for this engine alone
    @raises OSError, ValueError
    """
    for folder in (shared, *writable):
        path = find_image([folder], name)
        if path is None:
            continue
        try:
            return open_image(path)
        except (OSError, ValueError) as error:
            say(f"{path} is not used: {error}")
            is_damaged = isinstance(error, ImageError)
        if is_damaged:
            _note_damage(writable[0], path)
        if folder in writable:
            with contextlib.suppress(OSError):
                path.unlink()
    for folder in writable[:-1]:
        if find_image([folder], name) is not None:
            continue
        try:
            return open_image(write(folder), verify=False)
        except PermissionError as error:
            say(f"{error}: the image is this engine's alone, in {writable[-1]}")
    is_taken = find_image(writable[-1:], name) is not None
    return open_image(write(writable[-1]), verify=is_taken)


def _note_damage(folder: Path, image: Path) -> None:
    """For the agent, whole at once: which file it is, by its inode. What cannot be noted stays where it is."""
    note = folder / f"{image.name}{DAMAGED}"
    partial = folder / f"{note.name}.{os.getpid()}.partial"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        partial.write_text(str(image.stat().st_ino))
        partial.rename(note)


def _write(descriptor: int, data: memoryview, at: int) -> None:
    while data:
        done = os.pwrite(descriptor, data, at)
        data, at = data[done:], at + done


def _written(descriptor: int, at: int, length: int, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    """Passes the pieces on once they are in the file."""
    end = at + length
    for piece in pieces:
        for begin in range(0, len(piece), CHUNK_BYTES):
            part = piece[begin : begin + CHUNK_BYTES]
            if at + len(part) > end:
                raise ImageError("a storage has more bytes than its place")
            _write(descriptor, part, at)
            at += len(part)
            yield part
    if at != end:
        raise ImageError("a storage has fewer bytes than its place")


def remove_leftovers(folder: Path) -> None:
    """Partial images whose writer is gone."""
    for path in folder.iterdir():
        match = _PARTIAL.search(path.name)
        if match and not Path(f"/proc/{match['pid']}").exists():
            with contextlib.suppress(OSError):
                path.unlink()
