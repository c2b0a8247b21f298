"""
Makes transformers.fixture.json: what Hugging Face's own implementations compute for tiny models of every architecture.

    pip install torch transformers numpy && python transformers.fixture.py > transformers.fixture.json

Weights are not in the fixture: they follow from a tensor's name (`weights` here, `publishedWeights` in the TypeScript),
whole numbers of a generator times a power of two, so that both sides have the same floats to the bit.
Made with transformers 5.23.0, torch 2.15.0, on a CPU, in double precision.
"""

import json
import math
import sys
import zlib

import numpy
import torch
from transformers import AutoConfig, AutoModelForCausalLM

TOKENS = [7, 31, 3, 3, 22, 0, 11, 16, 5, 38, 2, 9, 27, 14, 14, 33, 1, 20, 6, 29, 12, 8, 35, 18]
POSITIONS = [0, 11, 23]

SIZES = dict(vocab_size=40, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=10000.0)
LLAMA = dict(SIZES, model_type="llama", hidden_act="silu", tie_word_embeddings=False)
MISTRAL = dict(SIZES, model_type="mistral", hidden_act="silu", tie_word_embeddings=False)
QWEN2 = dict(SIZES, model_type="qwen2", hidden_act="silu", tie_word_embeddings=True, rms_norm_eps=1e-6,
             rope_theta=1000000.0, use_sliding_window=False, sliding_window=32, max_window_layers=2)
QWEN3 = dict(QWEN2, model_type="qwen3", head_dim=32, attention_bias=False)
GEMMA3 = dict(SIZES, model_type="gemma3_text", hidden_activation="gelu_pytorch_tanh", head_dim=32, num_hidden_layers=3,
              rms_norm_eps=1e-6, query_pre_attn_scalar=32, rope_theta=1000000.0, rope_local_base_freq=10000.0,
              sliding_window=8, sliding_window_pattern=3, tie_word_embeddings=True)

LLAMA3_ROPE = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=64)
YARN = dict(type="yarn", factor=4.0, original_max_position_embeddings=64)

CASES = {
    "llama": LLAMA,
    "llama, tied, scaled as Llama 3": dict(LLAMA, tie_word_embeddings=True, rope_scaling=LLAMA3_ROPE),
    "llama, scaled linearly": dict(LLAMA, rope_scaling=dict(type="linear", factor=4.0)),
    "llama, scaled by YaRN": dict(LLAMA, rope_scaling=dict(YARN, rope_type="yarn", attention_factor=1.25, beta_fast=24.0,
                                                           beta_slow=2.0)),
    "mistral": dict(MISTRAL, sliding_window=None, head_dim=32),
    "mistral, windowed": dict(MISTRAL, sliding_window=8),
    "qwen2": QWEN2,
    "qwen2, untied, scaled by YaRN": dict(QWEN2, tie_word_embeddings=False, rope_theta=500.0, rope_scaling=YARN),
    "qwen2, windowed from its second layer": dict(QWEN2, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "qwen3": QWEN3,
    "qwen3, untied, scaled by YaRN": dict(QWEN3, tie_word_embeddings=False, rope_theta=500.0, rope_scaling=YARN),
    "gemma3": GEMMA3,
    "gemma3, divided by another size than its heads'": dict(GEMMA3, query_pre_attn_scalar=24),
    "gemma3, scaled linearly": dict(GEMMA3, rope_scaling=dict(rope_type="linear", factor=8.0)),
    "gemma3, heads of 256": dict(GEMMA3, head_dim=256, num_attention_heads=2, num_key_value_heads=1,
                                 query_pre_attn_scalar=256),
}


BESIDE = ("transformers_version", "dtype", "use_cache", "initializer_range", "attention_dropout", "bos_token_id",
          "eos_token_id", "pad_token_id", "pretraining_tp")


def weights(name, shape, model_type):
    """Mulberry32's upper 12 bits, seeded by the name's CRC-32, as steps around 0 or, for a norm, around its neutral gain."""
    state = zlib.crc32(name.encode())
    values = numpy.empty(math.prod(shape))
    for i in range(values.size):
        state = (state + 0x6D2B79F5) & 0xFFFFFFFF
        z = state
        z = ((z ^ (z >> 15)) * (z | 1)) & 0xFFFFFFFF
        z ^= (z + (((z ^ (z >> 7)) * (z | 61)) & 0xFFFFFFFF)) & 0xFFFFFFFF
        values[i] = ((z ^ (z >> 14)) >> 20) - 2047.5
    if "norm" in name:
        return values / 8192 + (0 if model_type.startswith("gemma") else 1)
    # 2^-9 of the matrices' inputs of 64, so that a product is about as large as what it multiplies.
    return values / (8192 if len(shape) == 2 else 4096)


def compute(config):
    parsed = AutoConfig.for_model(**config)
    model = AutoModelForCausalLM.from_config(parsed, attn_implementation="eager", dtype=torch.float64).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weights(name, parameter.shape, config["model_type"]).reshape(parameter.shape)))
        logits = model(torch.tensor([TOKENS])).logits[0]
    saved = json.loads(parsed.to_json_string(use_diff=True))
    return dict(
        config=config,
        saved={key: value for key, value in saved.items() if key not in BESIDE},
        logits={position: [round(x, 5) for x in logits[position].tolist()] for position in POSITIONS},
    )


json.dump(dict(tokens=TOKENS, cases={name: compute(config) for name, config in CASES.items()}), sys.stdout, indent=1)
print()
