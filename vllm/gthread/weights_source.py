"""Reads the gthread form: from the pool while the agent still fills it, else from disk."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from .manifest import MANIFEST_BYTES_MAX, Manifest, ManifestError, Tensor, decode_manifest
from .staging import Progress, StagingFailed


def read_manifest(form: Path) -> Manifest:
    """@raises ManifestError, FileNotFoundError"""
    path = form / "manifest.pb"
    if path.stat().st_size > MANIFEST_BYTES_MAX:
        raise ManifestError(f"it has {path.stat().st_size} bytes")
    return decode_manifest(path.read_bytes())


class Staged:
    """`weights` in the pool; a tensor is handed out once its bytes are there. @raises StagingFailed"""

    def __init__(self, folder: Path, manifest: Manifest, progress: Progress | None = None) -> None:
        self._progress = progress or Progress(folder)
        self._mapping = _map_whole(folder / "weights", manifest.bytes)
        self._folder, self._form, self._checked = folder, _form_hash(manifest), False

    def read(self, tensor: Tensor) -> memoryview:
        self._progress.wait_for(tensor.offset + tensor.bytes)
        if not self._checked:
            self._check()
        return memoryview(self._mapping)[tensor.offset : tensor.offset + tensor.bytes]

    def _check(self) -> None:
        """Noted before the first byte. A commit that a later release converted again may lie otherwise, in as many bytes."""
        try:
            found = (self._folder / "form.sha256").read_text("latin-1")
        except OSError as error:
            raise StagingFailed(f"{self._folder}/form.sha256 cannot be read: {error.strerror}") from error
        if found != self._form:
            raise StagingFailed(f"{self._folder} is of another form than the manifest")
        self._checked = True


def _form_hash(manifest: Manifest) -> str:
    return hashlib.sha256(manifest.chunk_hashes).hexdigest()


class OnDisk:
    def __init__(self, form: Path, manifest: Manifest) -> None:
        try:
            self._mapping = _map_whole(form / "weights", manifest.bytes)
        except StagingFailed as error:
            raise ManifestError(str(error)) from error

    def read(self, tensor: Tensor) -> memoryview:
        return memoryview(self._mapping)[tensor.offset : tensor.offset + tensor.bytes]


def _map_whole(path: Path, length: int) -> mmap.mmap:
    """Unmapped with the last tensor that was handed out of it: a file that the agent evicts must not live on in here."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StagingFailed(f"{path} cannot be opened: {error.strerror}") from error
    try:
        size = os.fstat(descriptor).st_size
        # A page of a mapping beyond the file's end would be a SIGBUS.
        if size != length or size == 0:
            raise StagingFailed(f"{path} has {size} bytes, its manifest says {length}")
        return mmap.mmap(descriptor, length, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)


def tensors(form: Path, staged: Path | None, manifest: Manifest, say: Callable[[str], None]) -> Iterator[tuple[Tensor, memoryview]]:
    """In order of need.

    @param staged None, or where the agent would have put them: no such folder means that it did not
    """
    source: Staged | OnDisk | None = None
    if staged is not None and staged.is_dir():
        try:
            source = Staged(staged, manifest)
            say(f"weights from {staged}")
        except StagingFailed as error:
            say(f"{error}: reading from disk")
    for tensor in manifest.tensors:
        if tensor.bytes == 0:
            yield tensor, memoryview(b"")
            continue
        if isinstance(source, Staged):
            try:
                data = source.read(tensor)
            except StagingFailed as error:
                say(f"{error}: reading the rest from disk")
                source = None
            else:
                yield tensor, data
                continue
        if source is None:
            source = OnDisk(form, manifest)
            say(f"weights from {form}")
        yield tensor, source.read(tensor)
