"""A GPU's memory as this engine sees it: claims under POSIX locks, which the kernel drops with the process.

A claim is a file in <gpu>/claims holding a count of bytes; it exists as long as its holder keeps the lock. Whoever takes
memory does so under <gpu>/alloc.lock, so that two engines cannot take the same bytes.
"""

import fcntl
import json
import os
import struct
import time
from contextlib import contextmanager

MIB = 1 << 20
CLAIM_BYTES_MAX = 64
DEFAULT_DIR = "/run/gpu-sim"
# Faults of gpu.json that CUDA notices.
BROKEN = ("lost", "unknown-error", "reset-required", "missing")
# struct flock on 64-bit Linux: type, whence, start, length, pid.
_FLOCK = "hhqqi4x"


class OutOfMemory(RuntimeError):
    """More was wanted than is free; carries both in bytes."""

    def __init__(self, gpu, wanted, free):
        super().__init__(
            f"CUDA out of memory. Tried to allocate {wanted / (1 << 30):.2f} GiB. GPU {gpu.position} has a total "
            f"capacity of {gpu.total / (1 << 30):.2f} GiB of which {max(0, free) / (1 << 30):.2f} GiB is free."
        )
        self.gpu, self.wanted, self.free = gpu, wanted, free


def _live_bytes(path):
    """Bytes of a claim whose holder lives; None for a dead one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, query))
        if answer[0] == fcntl.F_UNLCK:
            return None
        text = os.pread(fd, CLAIM_BYTES_MAX, 0).strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(fd)


class Gpu:
    """One GPU and this process' claim on it."""

    def __init__(self, folder, position):
        self.folder, self.position = folder, position
        self._gate = os.open(os.path.join(folder, "alloc.lock"), os.O_RDWR | os.O_CLOEXEC)
        self._claim, self._claim_path, self.held = None, None, 0
        self._card_at = None
        self.card = {}
        self.reload()

    def reload(self):
        """gpu.json again, where it has changed."""
        path = os.path.join(self.folder, "gpu.json")
        stamp = os.stat(path)
        if self._card_at != (stamp.st_mtime_ns, stamp.st_ino):
            with open(path, encoding="utf-8") as file:
                self.card = json.load(file)
            self._card_at = (stamp.st_mtime_ns, stamp.st_ino)
        return self.card

    @property
    def broken(self):
        """CUDA cannot use it, by gpu.json as last read."""
        return self.card.get("fault") in BROKEN

    @property
    def uuid(self):
        return self.card["uuid"]

    @property
    def total(self):
        """What CUDA calls the device's memory, bytes: without the driver's own share."""
        return (self.card["totalMiB"] - self.card["reservedMiB"]) * MIB

    @property
    def capacity(self):
        """What processes can hold altogether, bytes."""
        return self.total - self.card["baseMiB"] * MIB

    @contextmanager
    def _alone(self):
        fcntl.lockf(self._gate, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._gate, fcntl.LOCK_UN)

    def others(self):
        """Bytes that other processes hold now. Our own claim is never opened again: closing it would drop its lock."""
        total = 0
        folder = os.path.join(self.folder, "claims")
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if path != self._claim_path:
                total += _live_bytes(path) or 0
        return total

    def free(self):
        return self.capacity - self.others() - self.held

    def measured(self):
        """Bytes that our claim file says we hold: what nvidia-smi counts."""
        if self._claim is None:
            return 0
        text = os.pread(self._claim, CLAIM_BYTES_MAX, 0).strip()
        return int(text) if text.isdigit() else 0

    def open_claim(self):
        """A claim of nothing yet; claims of dead holders are cleared away."""
        with self._alone():
            folder = os.path.join(self.folder, "claims")
            for name in os.listdir(folder):
                path = os.path.join(folder, name)
                if _live_bytes(path) is None:
                    _unlink(path)
            self._claim_path = os.path.join(folder, f"engine-{os.getpid()}-{os.urandom(6).hex()}")
            before = os.umask(0)
            self._claim = os.open(self._claim_path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            os.umask(before)
            fcntl.lockf(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write(0)

    def hold(self, wanted):
        """Holds exactly `wanted` bytes from now on; OutOfMemory when they are not free."""
        with self._alone():
            if wanted > self.held:
                free = self.capacity - self.others()
                if wanted > free:
                    raise OutOfMemory(self, wanted - self.held, free - self.held)
            self._write(wanted)

    def _write(self, count):
        os.pwrite(self._claim, b"%020d\n" % count, 0)
        self.held = count

    def close(self):
        """Gives everything back; dying does the same."""
        if self._claim is not None:
            _unlink(self._claim_path)
            os.close(self._claim)
            self._claim = None


def _unlink(path):
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def visible(environment, count):
    """The first `count` GPUs that this process sees, in CUDA's order (bus ids); fewer when there are fewer.

    In a container the runtime has mounted what NVIDIA_VISIBLE_DEVICES names; outside, with GPU_SIM_DIR, it chooses here.
    """
    outside = environment.get("GPU_SIM_DIR")
    directory = outside or DEFAULT_DIR
    wanted = environment.get("NVIDIA_VISIBLE_DEVICES", "all") if outside else "all"
    try:
        names = [name for name in os.listdir(directory) if name.startswith("GPU-")]
    except FileNotFoundError:
        names = []
    gpus = sorted((Gpu(os.path.join(directory, name), 0) for name in names), key=lambda gpu: gpu.card["busId"])
    if wanted not in ("all", ""):
        ids = [part.strip() for part in wanted.split(",")]
        gpus = [gpu for index, gpu in enumerate(gpus) if gpu.uuid in ids or str(index) in ids]
    gpus = [gpu for gpu in gpus if not gpu.broken]
    for position, gpu in enumerate(gpus):
        gpu.position = position
    return gpus[:count]


def report(gpu, kind, detail):
    """A line in the GPU's `violations`: something took or freed memory where that must not happen."""
    line = {"time": round(time.time(), 3), "kind": kind, "pid": os.getpid(), "host": os.uname().nodename, "uuid": gpu.uuid}
    with open(os.path.join(gpu.folder, "violations"), "a", encoding="utf-8") as file:
        file.write(json.dumps(line | detail) + "\n")
