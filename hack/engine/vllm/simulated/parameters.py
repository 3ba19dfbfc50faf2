"""How this engine behaves: defaults < the GPU's engine.json < the model folder's sim.json < environment VLLM_SIM_*."""

import json
import os
import time

FILE_BYTES_MAX = 1 << 20
REREAD_SECONDS = 0.1
# Where the engine may hang for good.
HANGS = ("", "boot", "health", "sleep", "wake", "generate")

# name in files: (name in the environment, default)
TABLE = {
    "bootSeconds": ("BOOT_SECONDS", 3.0),
    "tokensPerSecond": ("TOKENS_PER_SECOND", 50.0),
    "firstTokenMs": ("FIRST_TOKEN_MS", 20.0),
    "recomputeMs": ("RECOMPUTE_MS", 30.0),
    "wakeBaseMs": ("WAKE_BASE_MS", 300.0),
    "wakeGBPerSecond": ("WAKE_GB_PER_SECOND", 25.0),
    "reloadGBPerSecond": ("RELOAD_GB_PER_SECOND", 5.0),
    "sleepMs": ("SLEEP_MS", 90.0),
    "residueMiB": ("RESIDUE_MIB", 0.0),
    "weightsMiB": ("WEIGHTS_MIB", 0.0),
    "answerTokens": ("ANSWER_TOKENS", 32.0),
    "exitCode": ("EXIT_CODE", -1.0),
    "exitAfterSeconds": ("EXIT_AFTER_SECONDS", 0.0),
    "sleepKeepsMemory": ("SLEEP_KEEPS_MEMORY", False),
    "sleepFails": ("SLEEP_FAILS", False),
    "sleepLeaksMiB": ("SLEEP_LEAKS_MIB", 0.0),
    "wakeFails": ("WAKE_FAILS", False),
    "wakeGarbles": ("WAKE_GARBLES", False),
    "ignoresSigterm": ("IGNORES_SIGTERM", False),
    "hang": ("HANG", ""),
}


class BadParameter(ValueError):
    """A parameter that does not exist or has the wrong kind of value."""


def _convert(name, value, source):
    """A value of the default's kind; numbers are never negative but for exitCode's "none"."""
    default = TABLE[name][1]
    if isinstance(default, bool):
        if value in (True, "1", "true"):
            return True
        if value in (False, "0", "false", ""):
            return False
    elif isinstance(default, str):
        if value in HANGS:
            return value
    elif not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = -1.0
        if number >= 0 or name == "exitCode":
            return number
    raise BadParameter(f"{source}: {name}={value!r} is not a value for it; see hack/engine/README.md")


def _file(path):
    try:
        with open(path, encoding="utf-8") as file:
            values = json.loads(file.read(FILE_BYTES_MAX))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise BadParameter(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise BadParameter(f"{path}: not a JSON object")
    return values


def read(gpu_folder, model_folder, environment):
    """All parameters by name; read anew before each sleep and wake, so that faults can come and go."""
    result = {name: default for name, (_, default) in TABLE.items()}
    for path in (os.path.join(gpu_folder, "engine.json"), os.path.join(model_folder, "sim.json")):
        for name, value in _file(path).items():
            if name not in TABLE:
                raise BadParameter(f"{path}: no parameter {name}; see hack/engine/README.md")
            result[name] = _convert(name, value, path)
    for name, (variable, _) in TABLE.items():
        value = environment.get("VLLM_SIM_" + variable)
        if value is not None:
            result[name] = _convert(name, value, "VLLM_SIM_" + variable)
    return result


class Live:
    """Parameters that may change while the engine runs: faults come and go with the files."""

    def __init__(self, gpu_folder, model_folder, environment):
        self._sources = (gpu_folder, model_folder, environment)
        self._values, self._read_at = read(*self._sources), time.monotonic()

    def fresh(self):
        """Read now. A file that has gone bad is said once a read, and the last good values stay."""
        try:
            self._values = read(*self._sources)
        except (BadParameter, OSError) as error:
            print(f"WARNING: {error}", flush=True)
        self._read_at = time.monotonic()
        return self._values

    def current(self):
        """At most REREAD_SECONDS old."""
        return self._values if time.monotonic() - self._read_at < REREAD_SECONDS else self.fresh()
