"""The language backbones of ``vislex.catalog``: their architectures, and a tiny override each."""

from __future__ import annotations

from typing import Any

__all__ = ["LLMS"]


def _llm(
    model_type: str, hub_id: str, hidden: int, layers: int, heads: int, kv_heads: int, mlp: int, vocabulary: int,
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Config of a causal language model, and its tiny override: two layers of width 32."""
    shape = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": mlp}
    config = {"model_type": model_type, "hidden_size": hidden, "num_hidden_layers": layers, "vocab_size": vocabulary}
    tiny: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 99}
    tiny |= {"num_key_value_heads": 2, "intermediate_size": 48, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    tiny |= {"head_dim": 8} if "head_dim" in more else {}
    tiny |= {"sliding_window": 16} if "sliding_window" in more else {}
    tiny |= {"layer_types": ["sliding_attention", "full_attention"]} if model_type.startswith("gemma") else {}
    return {"config": config | shape | more, "hub_id": hub_id, "tiny": tiny}


_LLM = "vislex.adapters.llms:build_llm"

LLMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "hf:": (_LLM, "any causal language model of transformers: hf:ORG/REPO or hf:DIR", {}),
    "gemma2-2b": (
        _LLM,
        "Gemma 2, 2B, instruction-tuned; PaliGemma 2 stands on it",
        _llm("gemma2", "google/gemma-2-2b-it", 2304, 26, 8, 4, 9216, 256000, head_dim=256, sliding_window=4096),
    ),
    "gemma3-1b": (
        _LLM,
        "Gemma 3, 1B, text only, instruction-tuned",
        _llm("gemma3_text", "google/gemma-3-1b-it", 1152, 26, 4, 1, 6912, 262144, head_dim=256, sliding_window=512),
    ),
    "llama3.2-1b": (
        _LLM,
        "Llama 3.2, 1B, instruction-tuned",
        _llm("llama", "meta-llama/Llama-3.2-1B-Instruct", 2048, 16, 32, 8, 8192, 128256, tie_word_embeddings=True),
    ),
    "phi-2": (
        _LLM,
        "Phi-2, 2.7B; its head is not tied and has a bias",
        _llm("phi", "microsoft/phi-2", 2560, 32, 32, 32, 10240, 51200),
    ),
    "phi3-mini": (
        _LLM,
        "Phi-3 mini, 3.8B, 4k context, instruction-tuned",
        _llm("phi3", "microsoft/Phi-3-mini-4k-instruct", 3072, 32, 32, 32, 8192, 32064),
    ),
    "qwen2.5-0.5b": (
        _LLM,
        "Qwen 2.5, 0.5B, instruction-tuned",
        _llm("qwen2", "Qwen/Qwen2.5-0.5B-Instruct", 896, 24, 14, 2, 4864, 151936, tie_word_embeddings=True),
    ),
    "qwen3-0.6b": (
        _LLM,
        "Qwen 3, 0.6B",
        _llm("qwen3", "Qwen/Qwen3-0.6B", 1024, 28, 16, 8, 3072, 151936, head_dim=128, tie_word_embeddings=True),
    ),
    "smollm2-135m": (
        _LLM,
        "SmolLM2, 135M, instruction-tuned",
        _llm("llama", "HuggingFaceTB/SmolLM2-135M-Instruct", 576, 30, 9, 3, 1536, 49152, tie_word_embeddings=True),
    ),
    "smollm2-360m": (
        _LLM,
        "SmolLM2, 360M, instruction-tuned",
        _llm("llama", "HuggingFaceTB/SmolLM2-360M-Instruct", 960, 32, 15, 5, 2560, 49152, tie_word_embeddings=True),
    ),
    "smollm3-3b": (
        _LLM,
        "SmolLM3, 3B; every fourth layer has no positions",
        _llm("smollm3", "HuggingFaceTB/SmolLM3-3B", 2048, 36, 16, 4, 11008, 128256, tie_word_embeddings=True),
    ),
}
