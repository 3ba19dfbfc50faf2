"""Memory by the kernel's own calls: mappings, advice on them, copies. Each call releases the interpreter's lock."""

from __future__ import annotations

import ctypes
import mmap
import os

PAGE_BYTES = mmap.PAGESIZE
HUGE_PAGE_BYTES = 2 * 1024 * 1024

# Linux's asm-generic/mman-common.h, as x86-64 and arm64 have them.
MADV_DONTNEED = 4
MADV_HUGEPAGE = 14
MADV_POPULATE_READ = 22

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_MAP_FAILED = ctypes.c_void_p(-1).value


def _fail(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


def align_up(value: int, to: int) -> int:
    return -(-value // to) * to


class Mapping:
    """A part of the address space, until `close`."""

    def __init__(self, whole: tuple[int, int], address: int, length: int, writable: bool) -> None:
        self._whole = whole
        self.address, self.bytes, self.writable = address, length, writable

    def view(self, offset: int = 0, length: int | None = None) -> memoryview:
        """Of a read-only mapping as well: who writes there ends with SIGSEGV."""
        length = self.bytes - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > self.bytes:
            raise ValueError(f"{length} bytes at {offset} are beyond the mapping's {self.bytes}")
        return view_of(self.address + offset, length)

    def close(self) -> None:
        """Nothing may use its addresses any more."""
        address, length = self._whole
        self._whole = (0, 0)
        if length:
            _libc.munmap(address, length)


def view_of(address: int, length: int) -> memoryview:
    return memoryview((ctypes.c_char * length).from_address(address)).cast("B")


def map_anonymous(length: int, large_pages: bool = True) -> Mapping:
    """Private zeroes, on a large page's boundary and in large pages where the kernel has them.

    @param large_pages False leaves their size to the kernel's own setting
    """
    whole = align_up(max(length, 1), HUGE_PAGE_BYTES) + HUGE_PAGE_BYTES
    address = _libc.mmap(None, whole, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if address == _MAP_FAILED:
        raise _fail("mmap")
    start = align_up(address, HUGE_PAGE_BYTES)
    if large_pages:
        try_advise(start, align_up(length, HUGE_PAGE_BYTES), MADV_HUGEPAGE)
    return Mapping((address, whole), start, length, writable=True)


def map_file(descriptor: int, length: int) -> Mapping:
    """A file's first bytes, shared and read-only."""
    address = _libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address == _MAP_FAILED:
        raise _fail("mmap")
    return Mapping((address, length), address, length, writable=False)


def advise(address: int, length: int, advice: int) -> None:
    """On the whole pages inside. @raises OSError"""
    start, end = align_up(address, PAGE_BYTES), (address + length) // PAGE_BYTES * PAGE_BYTES
    if end > start and _libc.madvise(start, end - start, advice) != 0:
        raise _fail("madvise")


def try_advise(address: int, length: int, advice: int) -> bool:
    """Advice that a kernel may not know. @returns whether it took it"""
    try:
        advise(address, length, advice)
    except OSError:
        return False
    return True


def free_pages(address: int, length: int) -> int:
    """Gives the pages inside back; their bytes read as zeroes until they are written. @returns the bytes given back"""
    start, end = align_up(address, PAGE_BYTES), (address + length) // PAGE_BYTES * PAGE_BYTES
    if end <= start:
        return 0
    advise(start, end - start, MADV_DONTNEED)
    return end - start


def copy(target: int, source: int, length: int) -> None:
    ctypes.memmove(target, source, length)


def resident_bytes() -> dict[str, int]:
    """RSS of this process by kind (proc(5)): VmRSS, RssAnon, RssFile, RssShmem."""
    found: dict[str, int] = {}
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            name, _, rest = line.partition(":")
            if name in ("VmRSS", "RssAnon", "RssFile", "RssShmem"):
                found[name] = int(rest.split()[0]) * 1024
    return found


def release_free_memory() -> None:
    """Free memory of the allocators goes back to the kernel: tcmalloc's where it is preloaded, else glibc's."""
    for name, argument in (("MallocExtension_ReleaseFreeMemory", ()), ("malloc_trim", (0,))):
        try:
            getattr(_libc, name)(*argument)
        except AttributeError:
            continue
        return
