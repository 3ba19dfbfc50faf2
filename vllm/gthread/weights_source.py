"""Reads the gthread form: from the pool while the agent still fills it, else from disk.

Who takes whole tensors gets them in memory of its own, each piece as soon as it is staged. Who takes a rank's part of each gets a
view of the pool: of what it leaves out it then reads nothing.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from . import xxh64
from .buffers import Buffers
from .manifest import HASH_BYTES, MANIFEST_BYTES_MAX, REMEDY, Manifest, ManifestError, Tensor, decode_manifest
from .staging import Progress, StagingFailed

# At once, of a tensor that is still being staged: the agent's chunks are as large.
PIECE_BYTES = 8 * 1024 * 1024

Say = Callable[[str], None]
Wanted = Callable[[str], bool]


def read_manifest(form: Path) -> Manifest:
    """@raises ManifestError, FileNotFoundError"""
    path = form / "manifest.pb"
    if path.stat().st_size > MANIFEST_BYTES_MAX:
        raise ManifestError(f"it has {path.stat().st_size} bytes")
    return decode_manifest(path.read_bytes())


class DamagedForm(ValueError):
    """The disk gives other bytes than the converter wrote; the text says where, and the remedy."""


class Staged:
    """`weights` in the pool. The agent checks its bytes before it says that they are there. @raises StagingFailed"""

    def __init__(self, folder: Path, manifest: Manifest, buffers: Buffers | None, progress: Progress | None = None) -> None:
        """@param buffers None: tensors are views of the pool"""
        self._buffers = buffers
        self._file = -1
        self._mapping: mmap.mmap | None = None
        self._progress = progress or Progress(folder)
        try:
            self._file = _open_whole(folder / "weights", manifest.bytes)
            if buffers is None:
                # Unmapped with the last tensor that was handed out of it: a file that the agent evicts must not live on in here.
                self._mapping = mmap.mmap(self._file, manifest.bytes, prot=mmap.PROT_READ)
        except OSError as error:
            self.close()
            raise StagingFailed(f"{folder}/weights cannot be mapped: {error.strerror}") from error
        except StagingFailed:
            self.close()
            raise
        self._folder, self._form, self._checked = folder, _form_hash(manifest), False

    def read(self, tensor: Tensor) -> memoryview:
        end = tensor.offset + tensor.bytes
        if self._mapping is not None:
            self._wait(end)
            return memoryview(self._mapping)[tensor.offset : end]
        assert self._buffers is not None
        data = self._buffers.take(tensor.bytes)
        at = tensor.offset
        while at < end:
            stop = min(end, (at // PIECE_BYTES + 1) * PIECE_BYTES)
            self._wait(stop)
            _read(self._file, data[at - tensor.offset : stop - tensor.offset], at)
            at = stop
        return data

    def _wait(self, end: int) -> None:
        self._progress.wait_for(end)
        if not self._checked:
            self._check()

    def _check(self) -> None:
        """Noted before the first byte. A commit that a later release converted again may lie otherwise, in as many bytes."""
        try:
            found = (self._folder / "form.sha256").read_text("latin-1")
        except OSError as error:
            raise StagingFailed(f"{self._folder}/form.sha256 cannot be read: {error.strerror}") from error
        if found != self._form:
            raise StagingFailed(f"{self._folder} is of another form than the manifest")
        self._checked = True

    def close(self) -> None:
        self._mapping = None
        self._progress.close()
        if self._file >= 0:
            os.close(self._file)


def _form_hash(manifest: Manifest) -> str:
    return hashlib.sha256(manifest.chunk_hashes).hexdigest()


class OnDisk:
    """The form itself, by way of the page cache. Each chunk is checked against its hash. @raises ManifestError, DamagedForm"""

    def __init__(self, form: Path, manifest: Manifest, say: Say, buffers: Buffers, digest: xxh64.Hash | None) -> None:
        self._buffers = buffers
        self._path, self._manifest, self._digest = form / "weights", manifest, digest
        if digest is None:
            say(f"{self._path} is read unchecked: neither {xxh64.LIBRARY} nor the package xxhash is here")
        try:
            self._file = _open_whole(self._path, manifest.bytes)
        except StagingFailed as error:
            raise ManifestError(str(error)) from error
        # The last chunk of which a tensor wanted a part: the next one begins in it.
        self._kept = -1
        self._bytes = memoryview(bytearray(min(manifest.chunk_bytes, manifest.bytes)))

    def read(self, tensor: Tensor) -> memoryview:
        into = self._buffers.take(tensor.bytes)
        done = 0
        while done < tensor.bytes:
            chunk, within = divmod(tensor.offset + done, self._manifest.chunk_bytes)
            length = self._length(chunk)
            part = into[done : done + length - within]
            if len(part) == length:
                self._fill(chunk, part)
            else:
                part[:] = self._chunk(chunk)[within : within + len(part)]
            done += len(part)
        return into

    def _length(self, chunk: int) -> int:
        return min(self._manifest.chunk_bytes, self._manifest.bytes - chunk * self._manifest.chunk_bytes)

    def _chunk(self, chunk: int) -> memoryview:
        data = self._bytes[: self._length(chunk)]
        if chunk != self._kept:
            self._kept = -1
            self._fill(chunk, data)
            self._kept = chunk
        return data

    def _fill(self, chunk: int, into: memoryview) -> None:
        at = chunk * self._manifest.chunk_bytes
        wanted = int.from_bytes(self._manifest.chunk_hashes[chunk * HASH_BYTES : (chunk + 1) * HASH_BYTES], "little")
        # Twice, as the agent: a disk's wrong answer may not be its last. Not out of the page cache again.
        for _ in range(2):
            try:
                _read(self._file, into, at)
            except StagingFailed as error:
                raise DamagedForm(f"{error}: {REMEDY}") from error
            if self._digest is None or self._digest(into) == wanted:
                return
            os.posix_fadvise(self._file, at, len(into), os.POSIX_FADV_DONTNEED)
        raise DamagedForm(f"{self._path}: the {len(into)} bytes at {at} do not have the hash of the manifest: {REMEDY}")

    def close(self) -> None:
        os.close(self._file)


def _open_whole(path: Path, length: int) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StagingFailed(f"{path} cannot be opened: {error.strerror}") from error
    size = os.fstat(descriptor).st_size
    if size != length or size == 0:
        os.close(descriptor)
        raise StagingFailed(f"{path} has {size} bytes, its manifest says {length}")
    return descriptor


def _read(descriptor: int, into: memoryview, at: int) -> None:
    """@raises StagingFailed"""
    while into:
        try:
            done = os.preadv(descriptor, [into], at)
        except OSError as error:
            raise StagingFailed(f"weights cannot be read at {at}: {error.strerror}") from error
        if done == 0:
            raise StagingFailed(f"weights end at {at}")
        into, at = into[done:], at + done


def tensors(
    form: Path, staged: Path | None, manifest: Manifest, say: Say, wanted: Wanted = lambda _: True, whole: bool = True
) -> Iterator[tuple[Tensor, memoryview]]:
    """In order of need.

    @param staged None, or where the agent would have put them: no such folder means that it did not
    @param wanted by name; of the others nothing is read
    @param whole whether most of each tensor is taken: it then comes in memory that is the taker's alone for as long as it is held,
    to be written to as well; else it may be a read-only view of the pool
    @raises ManifestError, DamagedForm
    """
    buffers = Buffers()
    source: Staged | OnDisk | None = None
    if staged is not None and staged.is_dir():
        try:
            source = Staged(staged, manifest, buffers if whole else None)
            say(f"weights from {staged}")
        except StagingFailed as error:
            say(f"{error}: reading from disk")
    try:
        for tensor in manifest.tensors:
            if not wanted(tensor.name):
                continue
            if tensor.bytes == 0:
                yield tensor, memoryview(b"")
                continue
            if isinstance(source, Staged):
                try:
                    data = source.read(tensor)
                except StagingFailed as error:
                    say(f"{error}: reading the rest from disk")
                    source.close()
                    source = None
                else:
                    yield tensor, data
                    continue
            if source is None:
                source = OnDisk(form, manifest, say, buffers, xxh64.find())
                say(f"weights from {form}")
            yield tensor, source.read(tensor)
    finally:
        if source is not None:
            source.close()
        buffers.close()
