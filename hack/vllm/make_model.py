"""Makes a Llama of random weights, of a size one asks for, with a tokenizer, as a hub's folder holds it.

    $(hack/vllm/install.sh) hack/vllm/make_model.py --gigabytes 1.2 --dtype float32

It lands in the cache, once for each choice, and its folder's path is printed on stdout. The weights are the same on every machine
(one seed); greedy answers of a float32 model do not flip between batch shapes, those of bfloat16 may.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

VOCABULARY = 512
HIDDEN = 2048
INTERMEDIATE = 5632
HEADS = 16
POSITIONS = 2048
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Four attention matrices and three of the feed-forward part, and two norms.
LAYER_PARAMETERS = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE + 2 * HIDDEN
OUTER_PARAMETERS = 2 * VOCABULARY * HIDDEN + HIDDEN
# Files of about this size, as a hub's larger models have several.
SHARD_BYTES = 512 * 1024 * 1024
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def say(text: str) -> None:
    print(f"model: {text}", file=sys.stderr, flush=True)


def layers_for(gigabytes: float, dtype: str) -> int:
    """The fewest layers that make at least so many bytes (10^9)."""
    parameters = gigabytes * 1e9 / DTYPE_BYTES[dtype] - OUTER_PARAMETERS
    return max(1, -(-int(parameters) // LAYER_PARAMETERS))


def write_tokenizer(folder: Path) -> None:
    """Byte-level, so that it takes any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog, hello world"] * 10, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def write_config(folder: Path, layers: int, dtype: str) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": POSITIONS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": layers,
        "num_key_value_heads": HEADS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "vocab_size": VOCABULARY,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 1}) + "\n")


def write_weights(folder: Path, layers: int, dtype: str, seed: int) -> int:
    """Layer by layer, so that no more than one shard is in memory. @returns bytes of tensors"""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    target = getattr(torch, dtype)

    def random(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float32).normal_(0, 0.02, generator=generator).to(target)

    shards: list[dict[str, torch.Tensor]] = [{}]
    filled = total = 0

    def add(name: str, tensor: torch.Tensor) -> None:
        nonlocal filled, total
        size = tensor.numel() * tensor.element_size()
        if filled + size > SHARD_BYTES and shards[-1]:
            finish()
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += size
        total += size

    weight_map: dict[str, str] = {}

    def finish() -> None:
        name = f"model-{len(shards):05d}.safetensors"
        weight_map.update(dict.fromkeys(shards[-1], name))
        save_file(shards[-1], folder / name, metadata={"format": "pt"})
        shards[-1].clear()

    add("model.embed_tokens.weight", random(VOCABULARY, HIDDEN))
    for layer in range(layers):
        base = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            add(f"{base}.self_attn.{name}.weight", random(HIDDEN, HIDDEN))
        for name in ("gate_proj", "up_proj"):
            add(f"{base}.mlp.{name}.weight", random(INTERMEDIATE, HIDDEN))
        add(f"{base}.mlp.down_proj.weight", random(HIDDEN, INTERMEDIATE))
        for name in ("input_layernorm", "post_attention_layernorm"):
            add(f"{base}.{name}.weight", torch.ones(HIDDEN, dtype=target))
        say(f"layer {layer + 1} of {layers}")
    add("model.norm.weight", torch.ones(HIDDEN, dtype=target))
    add("lm_head.weight", random(VOCABULARY, HIDDEN))
    finish()
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.2, help="bytes of weights at least, in 10^9")
    parser.add_argument("--dtype", choices=sorted(DTYPE_BYTES), default="float32")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="instead of the cache")
    choice = parser.parse_args()
    cache = Path(os.environ.get("GREENTHREAD_CACHE") or Path.home() / ".cache" / "greenthread")
    layers = layers_for(choice.gigabytes, choice.dtype)
    folder = choice.folder or cache / "models" / f"random-llama-{layers}-{choice.dtype}-{choice.seed}"
    if not folder.exists():
        say(f"{layers} layers of {choice.dtype} into {folder}")
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
        partial.mkdir(parents=True)
        try:
            write_config(partial, layers, choice.dtype)
            write_tokenizer(partial)
            total = write_weights(partial, layers, choice.dtype, choice.seed)
            partial.rename(folder)  # a folder that exists is whole
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        say(f"{total} bytes of weights")
    print(folder)


if __name__ == "__main__":
    main()
