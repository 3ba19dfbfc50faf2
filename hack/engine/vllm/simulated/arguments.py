"""vLLM's command line: the flags it knows, checked as argparse checks them. An unknown flag ends with exit 2."""

import argparse
import re

# Flags that take one value and have no meaning here.
IGNORED_VALUES = """
host port uvicorn-log-level allowed-origins allowed-methods allowed-headers api-key lora-modules chat-template
chat-template-content-format response-role ssl-keyfile ssl-certfile ssl-ca-certs ssl-cert-reqs root-path middleware
tool-call-parser tool-parser-plugin tool-server reasoning-parser reasoning-parser-plugin log-config-file max-log-len
tokenizer tokenizer-mode tokenizer-revision hf-config-path hf-token hf-overrides code-revision revision seed
allowed-local-media-path allowed-media-domains config-format rope-scaling rope-theta max-logprobs logprobs-mode
generation-config override-generation-config model-impl logits-processors logits-processor-pattern pooler-config
override-pooler-config io-processor-plugin
download-dir ignore-patterns model-loader-extra-config safetensors-load-strategy pt-load-map-location
distributed-executor-backend pipeline-parallel-size-deprecated data-parallel-size data-parallel-rank data-parallel-start-rank
data-parallel-size-local data-parallel-address data-parallel-rpc-port data-parallel-backend nnodes node-rank master-addr
master-port decode-context-parallel-size prefill-context-parallel-size max-parallel-loading-workers worker-cls
worker-extension-cls block-size kv-cache-memory-bytes swap-space kv-cache-dtype num-gpu-blocks-override
prefix-caching-hash-algo cpu-offload-gb cpu-offload-params kv-offloading-size kv-offloading-backend
kv-sharing-fast-prefill mamba-cache-dtype mamba-ssm-cache-dtype mamba-block-size calculate-kv-scales-mode
limit-mm-per-prompt media-io-kwargs mm-processor-kwargs mm-processor-cache-gb mm-processor-cache-type
mm-encoder-tp-mode mm-encoder-attn-backend video-pruning-rate max-loras max-lora-rank max-cpu-loras lora-dtype
lora-extra-vocab-size default-mm-loras fully-sharded-loras-mode show-hidden-metrics-for-version otlp-traces-endpoint
collect-detailed-traces max-num-batched-tokens max-num-seqs max-num-partial-prefills max-long-partial-prefills
long-prefill-token-threshold scheduling-policy scheduler-cls preemption-mode num-lookahead-slots scheduler-delay-factor
stream-interval speculative-config compilation-config kv-transfer-config kv-events-config ec-transfer-config
additional-config structured-outputs-config guided-decoding-backend cuda-graph-sizes max-seq-len-to-capture
cudagraph-capture-sizes max-cudagraph-capture-size attention-backend attention-config moe-backend kernel-config
profiler-config weight-transfer-config optimization-level performance-mode eplb-config all2all-backend
expert-placement-strategy ubatch-size dbo-decode-token-threshold dbo-prefill-token-threshold api-server-count
renderer-num-workers h11-max-incomplete-event-size h11-max-header-count shutdown-timeout convert
spec-model spec-tokens override-attention-dtype quantization-param-path sleep-preserve-parameter-names
data-parallel-supervisor-port distributed-timeout-seconds language-model-only-limit default-chat-template-kwargs
skip-mm-profiling-limit fail-on-environ-validation-mode numa-bind-nodes numa-bind-cpus
""".split()

# Flags without a value; each also exists as --no-….
SWITCHES = """
trust-remote-code enforce-eager disable-sliding-window disable-cascade-attn skip-tokenizer-init enable-prompt-embeds
enable-sleep-mode sleep-mode-offload-cudagraph use-tqdm-on-load enable-expert-parallel enable-eplb disable-custom-all-reduce
ray-workers-use-nsight enable-prefix-caching calculate-kv-scales enable-lora enable-lora-bias fully-sharded-loras
enable-tower-connector-lora kv-cache-metrics cudagraph-metrics enable-layerwise-nvtx-tracing enable-mfu-metrics
enable-logging-iteration-details enable-chunked-prefill disable-hybrid-kv-cache-manager disable-chunked-mm-input
async-scheduling disable-log-stats enable-log-requests disable-log-requests aggregate-engine-logging enable-dbo
data-parallel-hybrid-lb data-parallel-external-lb disable-nccl-for-dp-synchronization allow-credentials
disable-uvicorn-access-log disable-access-log-for-endpoints disable-frontend-multiprocessing enable-request-id-headers
enable-auto-tool-choice exclude-tools-when-tool-choice-none return-tokens-as-token-ids enable-ssl-refresh
disable-fastapi-docs enable-prompt-tokens-details enable-server-load-tracking enable-force-include-usage
enable-tokenizer-info-endpoint enable-log-outputs enable-log-deltas log-error-stack tokens-only
trust-request-chat-template skip-mm-profiling interleave-mm-strings enable-mm-embeds language-model-only
mm-processor-cache-shared scheduler-reserve-full-isl enable-return-routed-experts enable-flashinfer-autotune
fail-on-environ-validation numa-bind disable-mm-preprocessor-cache multi-step-stream-outputs enable-offline-docs
""".split()

DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")
QUANTIZATIONS = (
    "awq fp8 ptpc_fp8 fbgemm_fp8 fp_quant modelopt modelopt_fp4 modelopt_mxfp8 modelopt_mixed gguf gptq_marlin awq_marlin "
    "gptq compressed-tensors bitsandbytes experts_int8 quark moe_wna16 torchao inc mxfp4 mxfp8 petit_nvfp4 cpu_awq"
).split()
RUNNERS = ("auto", "generate", "pooling", "draft")
TASKS = (
    "auto generate embedding embed classify score reward transcription draft token_embed token_classify plugin"
).split()


def _human_int(text):
    """`4096`, `32k` (thousands), `32K` (1024s), as vLLM reads lengths; -1 and auto mean: what fits."""
    if text in ("-1", "auto"):
        return -1
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgKMG]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"invalid length: {text!r}")
    unit = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}[match[2]]
    return int(float(match[1]) * unit)


def _fraction(text):
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in (0, 1]")
    return value


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def parser():
    result = argparse.ArgumentParser(prog="api_server.py", description="vLLM OpenAI-Compatible RESTful API server (simulated)")
    add = result.add_argument
    add("--model", default="Qwen/Qwen3-0.6B")
    add("--served-model-name", nargs="+", default=None)
    add("--uds", default=None)
    add("--dtype", choices=DTYPES, default="auto")
    add("--quantization", "-q", choices=QUANTIZATIONS, default=None)
    add("--tensor-parallel-size", "-tp", type=_positive, default=1)
    add("--pipeline-parallel-size", "-pp", type=_positive, default=1)
    add("--gpu-memory-utilization", type=_fraction, default=0.9)
    add("--load-format", default="auto")
    add("--runner", choices=RUNNERS, default="auto")
    add("--task", choices=TASKS, default=None)
    add("--max-model-len", type=_human_int, default=None)
    for name in IGNORED_VALUES:
        add("--" + name, nargs="*" if name in ("lora-modules", "middleware", "logits-processors", "cuda-graph-sizes") else None)
    for name in SWITCHES:
        add("--" + name, action=argparse.BooleanOptionalAction, default=None)
    return result


def parse(argv):
    """The flags; underscores in their names are dashes, as in vLLM. argparse itself exits 2 on bad ones."""
    spelled = []
    for word in argv:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            word = name.replace("_", "-") + equals + value
        spelled.append(word)
    flags = parser().parse_args(spelled)
    if not flags.uds:
        parser().error("the simulated engine listens on a Unix socket alone: give --uds PATH")
    return flags
