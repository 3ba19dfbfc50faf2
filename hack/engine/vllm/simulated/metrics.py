"""/metrics: the vllm:* families that dashboards and autoscalers read."""

import time
from contextlib import contextmanager

OPERATION_BUCKETS = (0.01, 0.1, 1.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
LATENCY_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Histogram:
    def __init__(self, buckets):
        self._buckets, self._counts, self._sum, self._count = buckets, [0] * len(buckets), 0.0, 0

    def observe(self, value):
        self._sum += value
        self._count += 1
        for i, bound in enumerate(self._buckets):
            if value <= bound:
                self._counts[i] += 1

    def lines(self, name, labels):
        for bound, count in zip(self._buckets, self._counts):
            yield f'{name}_bucket{{{labels},le="{bound}"}} {count}'
        yield f'{name}_bucket{{{labels},le="+Inf"}} {self._count}'
        yield f"{name}_sum{{{labels}}} {self._sum}"
        yield f"{name}_count{{{labels}}} {self._count}"


class Metrics:
    """Counted here, printed on demand."""

    def __init__(self, model):
        self._labels = f'engine="0",model_name="{model}"'
        self._started = time.time()
        self.prompt_tokens, self.generation_tokens = 0, 0
        self._success = {"stop": 0, "length": 0, "abort": 0}
        self._first_token, self._latency = Histogram(LATENCY_BUCKETS), Histogram(LATENCY_BUCKETS)
        self._durations, self._in_flight = {}, {}
        # What the gauge tells: the level of the last sleep that was answered; None once a wake brought back everything.
        self.sleep_level = None

    def tokens(self, count):
        self.generation_tokens += count

    def finished(self, reason, seconds, first_token_seconds):
        self._success[reason] = self._success.get(reason, 0) + 1
        self._latency.observe(seconds)
        if first_token_seconds is not None:
            self._first_token.observe(first_token_seconds)

    @contextmanager
    def sleep_operation(self, operation):
        """Counts a call of /sleep ("sleep") or /wake_up ("wake") while it is under way and when it is over."""
        started = time.monotonic()
        self._in_flight[operation] = self._in_flight.get(operation, 0) + 1
        try:
            yield
        finally:
            self._in_flight[operation] -= 1
            self._durations.setdefault(operation, Histogram(OPERATION_BUCKETS)).observe(time.monotonic() - started)

    def text(self, engine):
        """The exposition. Requests queued while asleep are in no gauge, as in vLLM."""
        labels, asleep = self._labels, engine.asleep
        running = 0 if asleep else len(engine.running)
        waiting = 0 if asleep else len(engine.waiting)
        lines = []

        def family(name, kind, text, samples):
            lines.extend((f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples))

        def single(name, kind, text, value):
            family(name, kind, text, [f"{name}{{{labels}}} {value}"])

        single("vllm:num_requests_running", "gauge", "Number of requests in model execution batches.", float(running))
        single("vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed.", float(waiting))
        single("vllm:kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.", min(1.0, running / 256))
        single("vllm:num_preemptions_total", "counter", "Cumulative number of preemption from the engine.", 0.0)
        single("vllm:prompt_tokens_total", "counter", "Number of prefill tokens processed.", float(self.prompt_tokens))
        single("vllm:generation_tokens_total", "counter", "Number of generation tokens processed.", float(self.generation_tokens))
        family(
            "vllm:request_success_total", "counter", "Count of successfully processed requests.",
            [f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {float(n)}' for reason, n in self._success.items()],
        )
        level = self.sleep_level
        states = {"awake": level is None, "weights_offloaded": level == 1, "discard_all": level == 2}
        family(
            "vllm:engine_sleep_state", "gauge", "Engine sleep state; awake = 0 means engine is sleeping.",
            [f'vllm:engine_sleep_state{{{labels},sleep_state="{state}"}} {float(on)}' for state, on in states.items()],
        )
        family("vllm:time_to_first_token_seconds", "histogram", "Histogram of time to first token in seconds.",
               self._first_token.lines("vllm:time_to_first_token_seconds", labels))
        family("vllm:e2e_request_latency_seconds", "histogram", "Histogram of end to end request latency in seconds.",
               self._latency.lines("vllm:e2e_request_latency_seconds", labels))
        name = "vllm:sleep_mode_operation_duration_seconds"
        family(name, "histogram", "Duration of one sleep-mode operation.",
               [line for key, histogram in self._durations.items() for line in histogram.lines(name, f'operation="{key}"')])
        name = "vllm:sleep_mode_operations_in_flight"
        family(name, "gauge", "Sleep-mode operations currently awaited.",
               [f'{name}{{operation="{key}"}} {float(count)}' for key, count in self._in_flight.items()])
        family("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.",
               [f"process_start_time_seconds {self._started}"])
        return "\n".join(lines) + "\n"
