"""The engine: one loop steps all running requests by a token, and only while awake with every claimed byte held."""

import asyncio
import os
import sys
import time

from . import memory, text

MAX_RUNNING = 256
# A GPU's health is looked at no more often than this.
CARD_CHECK_SECONDS = 0.1
# A wake takes its memory in this many steps, so that it can meet another one half-way, as on a real GPU.
WAKE_STEPS = 4
TAGS = ("weights", "kv_cache")
TOKENS_PER_SECOND_MIN = 0.01


class EngineDead(RuntimeError):
    """The engine's process is lost; the server ends with it."""


class Request:
    """One answer in the making; its tokens arrive in `queue` as (piece, finish reason or None)."""

    def __init__(self, request_id, pieces, reason):
        self.id, self.pieces, self.reason = request_id, pieces, reason
        self.emitted, self.ready_at = 0, 0.0
        self.queue = asyncio.Queue()
        self.done = False


class Engine:
    """Memory, sleep and steps."""

    def __init__(self, gpus, plan, parameters, journal, metrics):
        self.gpus, self.plan = gpus, plan
        self._parameters, self._journal, self.metrics = parameters, journal, metrics
        self.running, self.waiting = [], []
        # The scheduler: None, or why it takes nothing new: "draining" (what runs goes on) or "still".
        self.pause_state, self.garbled = None, False
        # What the engine believes to have given back, and at which level; what it has indeed.
        self.sleeping_tags, self.level, self.held_tags = set(), 0, set(TAGS)
        # After a level 2 sleep the weights' memory comes back empty: nonsense until reload_weights.
        self._weights_lost = False
        self._leaked = 0
        self._transition = asyncio.Lock()
        self._work, self._idle = asyncio.Event(), asyncio.Event()
        self._card_checked_at, self._stepped_at = 0.0, 0.0

    @property
    def asleep(self):
        """Memory is given back, of some tags at least, or so the engine believes."""
        return bool(self.sleeping_tags)

    @property
    def is_sleeping(self):
        """What /is_sleeping says: a paused scheduler counts, from the pause on."""
        return self.pause_state is not None or self.asleep

    @property
    def _may_step(self):
        return not self.asleep and (self.pause_state is None or (self.pause_state == "draining" and bool(self.running)))

    # Requests

    def submit(self, request):
        self.waiting.append(request)
        self._work.set()

    def cancel(self, request):
        """Frees a request whose client has left. True when it was still going."""
        for queue in (self.running, self.waiting):
            if request in queue:
                queue.remove(request)
                self._after_removal()
                return True
        return False

    def _after_removal(self):
        if not self.running:
            self._idle.set()

    async def loop(self):
        """Steps for ever; a dead engine ends the process, as vLLM's does."""
        try:
            while True:
                await self._work.wait()
                settings = self._parameters.current()
                if not self._may_step or settings["hang"] == "generate":
                    self._work.clear()
                    if settings["hang"] == "generate":
                        await asyncio.sleep(CARD_CHECK_SECONDS)
                        self._work.set()
                    continue
                self._admit(settings)
                if not self.running:
                    self._work.clear()
                    continue
                first = min(request.ready_at for request in self.running)
                due = max(self._stepped_at + 1 / max(settings["tokensPerSecond"], TOKENS_PER_SECOND_MIN), first)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if self._may_step:
                    self.step()
        except EngineDead as error:
            die(str(error))

    def _admit(self, settings):
        while self.pause_state is None and self.waiting and len(self.running) < MAX_RUNNING:
            request = self.waiting.pop(0)
            request.ready_at = time.monotonic() + settings["firstTokenMs"] / 1000
            self.running.append(request)
            self._idle.clear()

    def step(self):
        """One token for each running request that is past its prefill."""
        self._check_memory()
        now, emitted = time.monotonic(), []
        self._stepped_at = now
        for request in list(self.running):
            if request.ready_at > now + 0.001:
                continue
            index = request.emitted
            piece = request.pieces[index]
            if self.garbled or self._weights_lost:
                piece = " " + text.GARBLE[index % len(text.GARBLE)]
            request.emitted += 1
            last = request.emitted == len(request.pieces)
            emitted.append((request.id, index))
            request.queue.put_nowait((piece, request.reason if last else None))
            if last:
                self._finish(request)
        if emitted:
            self._journal.tokens(emitted, not self.asleep)
            self.metrics.tokens(len(emitted))

    def _finish(self, request):
        request.done = True
        self.running.remove(request)
        self._after_removal()

    def _check_memory(self):
        """No token without its bytes: the claims must hold what this engine needs, on GPUs that still work."""
        for gpu in self.gpus:
            if gpu.measured() < self.plan.need:
                memory.report(gpu, "token-without-bytes", {"heldBytes": gpu.measured(), "needBytes": self.plan.need})
                raise EngineDead("the engine was asked for a token without holding its memory")
        now = time.monotonic()
        if now - self._card_checked_at > CARD_CHECK_SECONDS:
            self._card_checked_at = now
            for gpu in self.gpus:
                gpu.reload()
                if gpu.broken:
                    raise EngineDead("CUDA error: unspecified launch failure")

    # Sleep and wake

    async def sleep(self, level, mode):
        """Pauses, then gives memory back. A second one frees nothing more, but ends what was kept when its mode says so, and the
        gauge then tells its level. One that fails leaves the pause and all memory as they are: a wake ends it."""
        async with self._transition:
            settings = self._parameters.fresh()
            await self._quiet(mode)
            if settings["hang"] == "sleep":
                await asyncio.Event().wait()
            if level > 0:
                await self._give_back(level, settings)
            self.metrics.sleep_level = level

    async def _give_back(self, level, settings):
        if "weights" in self.sleeping_tags:
            print("WARNING: Executor is already sleeping.", flush=True)
            return
        await asyncio.sleep(settings["sleepMs"] / 1000)
        if settings["sleepFails"]:
            raise RuntimeError("sleep refused, nothing was freed: no image of the weights: No space left on device (simulated: sleepFails)")
        self._leaked += int(settings["sleepLeaksMiB"] * memory.MIB)
        self._weights_lost = self._weights_lost or level == 2
        self.level = level
        if not settings["sleepKeepsMemory"]:
            self.held_tags = set()
            self._hold_tags()
        self.sleeping_tags = set(TAGS)

    async def _quiet(self, mode):
        """Pauses the scheduler; with `wait` this takes as long as what runs."""
        self.pause_state = "draining" if mode == "wait" else "still"
        self._work.set()
        if mode == "abort":
            for request in self.running + self.waiting:
                request.done = True
                request.queue.put_nowait(("", "abort"))
            self.running, self.waiting = [], []
            self._after_removal()
        elif mode == "wait":
            self._idle.clear()
            self._after_removal()
            await self._idle.wait()

    def _bytes_of(self, tags):
        size = {"weights": self.plan.weights, "kv_cache": self.plan.kv_cache}
        return self.plan.residue + sum(size[tag] for tag in tags)

    def _hold_tags(self):
        """Asleep, leaks stay as well; awake, they are inside what the engine has anyway."""
        wanted = self._bytes_of(self.held_tags)
        if self.held_tags != set(TAGS):
            wanted = min(wanted + self._leaked, self.plan.need)
        for gpu in self.gpus:
            gpu.hold(wanted)

    async def wake(self, tags):
        """Takes memory back, in steps; OutOfMemory leaves what was taken until then, as in vLLM. The scheduler goes on once nothing is
        missing any more, or nothing was."""
        async with self._transition:
            settings = self._parameters.fresh()
            if settings["hang"] == "wake":
                await asyncio.Event().wait()
            if tags is None or set(tags) - {"scheduling"}:
                await self._take_tags(None if tags is None else [tag for tag in tags if tag != "scheduling"], settings)
            if not self.asleep:
                self._resume_running(settings)
                self.pause_state = None
                self.metrics.sleep_level = None
                self._work.set()

    async def _take_tags(self, tags, settings):
        if not self.asleep or not set(tags or ()) <= self.sleeping_tags:
            print(f"WARNING: nothing to wake for {tags}: asleep are {sorted(self.sleeping_tags)}", flush=True)
            return
        if settings["wakeFails"]:
            raise RuntimeError("CUDA error: an illegal memory access was encountered (simulated: wakeFails)")
        wanted = set(tags or self.sleeping_tags)
        try:
            await self._take_back(wanted, settings)
        except memory.OutOfMemory as error:
            memory.report(error.gpu, "out-of-memory-on-wake", {"wantedBytes": error.wanted, "freeBytes": error.free})
            raise
        self.sleeping_tags = self.sleeping_tags - wanted
        self.garbled = settings["wakeGarbles"]

    async def _take_back(self, tags, settings):
        missing = [tag for tag in TAGS if tag in tags and tag not in self.held_tags]
        await asyncio.sleep(settings["wakeBaseMs"] / 1000)
        bandwidth = settings["wakeGBPerSecond"] * 1e9
        for tag in missing:
            before = self.gpus[0].held
            after = max(before, self._bytes_of(self.held_tags | {tag}))
            copied = self.plan.weights if tag == "weights" and self.level == 1 else 0
            for step in range(1, WAKE_STEPS + 1):
                for gpu in self.gpus:
                    gpu.hold(before + (after - before) * step // WAKE_STEPS)
                await asyncio.sleep(copied / WAKE_STEPS / bandwidth if bandwidth > 0 else 0)
            self.held_tags = self.held_tags | {tag}

    async def reload_weights(self):
        """Reads the weights from disk again, into memory that must have come back."""
        if "weights" not in self.held_tags:
            raise RuntimeError("CUDA error: invalid argument")
        bandwidth = self._parameters.fresh()["reloadGBPerSecond"] * 1e9
        await asyncio.sleep(self.plan.weights / bandwidth if bandwidth > 0 else 0)
        self._weights_lost = False

    def _resume_running(self, settings):
        """Frozen requests go on after their prompt and tokens were computed again."""
        for request in self.running:
            request.ready_at = time.monotonic() + settings["recomputeMs"] / 1000

    async def pause(self, mode):
        async with self._transition:
            await self._quiet(mode)

    def resume(self):
        """While asleep the real engine would answer nonsense from missing weights; this one stays quiet and says so."""
        if self.asleep:
            memory.report(self.gpus[0], "resume-while-asleep", {})
        self.pause_state = None
        self._work.set()


def die(message):
    """The end of an engine whose core is lost: what runs is cut off, the process is gone with code 1."""
    print(f"ERROR: EngineCore encountered a fatal error. {message}", file=sys.stderr, flush=True)
    os._exit(1)
