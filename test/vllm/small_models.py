"""Two models that boot in less time than vLLM takes to be imported, into the folder argv[1]: `llama`, and `mixtral`, whose experts
are padded by vLLM's post-processing on a CPU (to a multiple of 32)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "hack" / "vllm"))

import make_model
import torch
from safetensors.torch import save_file

HIDDEN, HEADS, EXPERTS, INTERMEDIATE = 64, 2, 4, 48
MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "num_hidden_layers": 1,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "vocab_size": make_model.VOCABULARY,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def mixtral_shapes() -> dict[str, tuple[int, ...]]:
    layer = "model.layers.0"
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": (make_model.VOCABULARY, HIDDEN),
        "lm_head": (make_model.VOCABULARY, HIDDEN),
        "model.norm": (HIDDEN,),
        f"{layer}.input_layernorm": (HIDDEN,),
        f"{layer}.post_attention_layernorm": (HIDDEN,),
        f"{layer}.block_sparse_moe.gate": (EXPERTS, HIDDEN),
    }
    for name in "qkvo":
        shapes[f"{layer}.self_attn.{name}_proj"] = (HIDDEN, HIDDEN)
    for expert in range(EXPERTS):
        for name, shape in (("w1", (INTERMEDIATE, HIDDEN)), ("w2", (HIDDEN, INTERMEDIATE)), ("w3", (INTERMEDIATE, HIDDEN))):
            shapes[f"{layer}.block_sparse_moe.experts.{expert}.{name}"] = shape
    return shapes


def main() -> None:
    llama, mixtral = (Path(sys.argv[1]) / name for name in ("llama", "mixtral"))
    for folder in (llama, mixtral):
        folder.mkdir()
        make_model.write_tokenizer(folder)
    make_model.HIDDEN, make_model.INTERMEDIATE, make_model.HEADS = HIDDEN, INTERMEDIATE, HEADS
    make_model.write_config(llama, 2, "bfloat16")
    make_model.write_weights(llama, 2, "bfloat16", 1)
    torch.manual_seed(1)
    (mixtral / "config.json").write_text(json.dumps(MIXTRAL))
    tensors = {f"{name}.weight": torch.randn(shape).bfloat16() for name, shape in mixtral_shapes().items()}
    save_file(tensors, mixtral / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
