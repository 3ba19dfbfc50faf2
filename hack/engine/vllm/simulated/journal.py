"""What this engine did, in the GPUs' own folders: tokens.log (each token, with the bytes held) and access.log."""

import json
import os
import shutil
import time

# A log starts anew beyond this; its last full one stays as <name>.1.
LOG_BYTES_MAX = 64 << 20
CHECK_EVERY_WRITES = 256


class Log:
    """Lines appended with one write each, so that engines that share a GPU do not tear each other's lines."""

    def __init__(self, path):
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._writes = 0

    def append(self, text):
        os.write(self._fd, text.encode())
        self._writes += 1
        if self._writes % CHECK_EVERY_WRITES == 0 and os.fstat(self._fd).st_size > LOG_BYTES_MAX:
            shutil.copyfile(self._path, self._path + ".1")
            os.ftruncate(self._fd, 0)


class Journal:
    """tokens.log on every GPU of the engine, access.log on its first."""

    def __init__(self, gpus, model):
        self._gpus = gpus
        self._tokens = [Log(os.path.join(gpu.folder, "tokens.log")) for gpu in gpus]
        self._access = Log(os.path.join(gpus[0].folder, "access.log"))
        self._who = {"pid": os.getpid(), "host": os.uname().nodename, "model": model}
        self._prefix = json.dumps(self._who)[1:-1]

    def tokens(self, emitted, awake):
        """One line a token: `emitted` is a list of (request id, index of the token)."""
        now = f'{{"time":{time.time():.4f},{self._prefix},"awake":{"true" if awake else "false"},'
        for gpu, log in zip(self._gpus, self._tokens):
            head = f'{now}"bytes":{gpu.measured()},"request":"'
            log.append("".join(f'{head}{request}","token":{index}}}\n' for request, index in emitted))

    def access(self, event, request, detail):
        line = {"time": round(time.time(), 4), "event": event, "request": request} | self._who | detail
        self._access.append(json.dumps(line) + "\n")
