"""The network computes what transformers computes, for every family it takes; others are refused."""

from typing import Any

import pytest
import torch
import transformers as hf

from cl.model.engine.network import NotLlamaLike
from cl.model.engine.ops import TorchOps
from cl.model.versions import BadVersion
from tests.model.tiny_networks import (
    SMALL,
    apart,
    model_of,
    network_of,
    some_tokens,
    step_through,
)

CLOSE = 1e-4  # the logits vary by about 2

ROPE = {"rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {**ROPE, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LINEAR = {"rope_theta": 1e4, "rope_type": "linear", "factor": 4.0}
YARN = {**ROPE, "rope_type": "yarn"}

SERVED = {
    "Llama": lambda: hf.LlamaConfig(**SMALL),
    "Llama, head tied": lambda: hf.LlamaConfig(**{**SMALL, "tie_word_embeddings": True}),
    "Llama, biases": lambda: hf.LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "Llama, heads of another size": lambda: hf.LlamaConfig(**SMALL, head_dim=12),
    "Llama, a key head for each": lambda: hf.LlamaConfig(**{**SMALL, "num_key_value_heads": 4}),
    "Llama, one key head": lambda: hf.LlamaConfig(**{**SMALL, "num_key_value_heads": 1}),
    "Llama, odd block": lambda: hf.LlamaConfig(**{**SMALL, "intermediate_size": 47}),
    "Llama 3 positions": lambda: hf.LlamaConfig(**SMALL, rope_parameters=LLAMA3),
    "linear positions": lambda: hf.LlamaConfig(**SMALL, rope_parameters=LINEAR),
    "yarn positions": lambda: hf.LlamaConfig(**SMALL, rope_parameters=YARN),
    "Mistral": lambda: hf.MistralConfig(**SMALL, sliding_window=None),
    "Mistral, sliding window": lambda: hf.MistralConfig(**SMALL, sliding_window=40),
    "Qwen 2": lambda: hf.Qwen2Config(**SMALL),
    "Qwen 2, some layers sliding": lambda: hf.Qwen2Config(
        **SMALL, use_sliding_window=True, sliding_window=40, max_window_layers=1
    ),
    "Qwen 3": lambda: hf.Qwen3Config(**SMALL, head_dim=16),
    "Seed": lambda: hf.SeedOssConfig(**SMALL, head_dim=16),
    "SmolLM 3, positions everywhere": lambda: hf.SmolLM3Config(**SMALL, no_rope_layers=[1, 1]),
    "Granite, all factors one": lambda: hf.GraniteConfig(**SMALL),
}
FACTORS = {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 8.0}
DYNAMIC = {**ROPE, "rope_type": "dynamic"}
MINISTRAL = {"rope_theta": 1e4, "rope_type": "default", "llama_4_scaling_beta": 0.5}
REFUSED = {
    "GPT-2": lambda: hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=96),
    "GPT-NeoX": lambda: hf.GPTNeoXConfig(**SMALL),
    "Phi": lambda: hf.PhiConfig(**SMALL),
    "Phi 3": lambda: hf.Phi3Config(**SMALL),
    "Gemma": lambda: hf.GemmaConfig(**SMALL, head_dim=8),
    "Gemma 2": lambda: hf.Gemma2Config(**SMALL, head_dim=8),
    "Gemma 3": lambda: hf.Gemma3TextConfig(**SMALL, head_dim=8),
    "Granite": lambda: hf.GraniteConfig(**SMALL, **FACTORS),
    "OLMo": lambda: hf.OlmoConfig(**SMALL),
    "OLMo 2": lambda: hf.Olmo2Config(**SMALL),
    "OLMo 3": lambda: hf.Olmo3Config(**SMALL),
    "SmolLM 3, positions in some": lambda: hf.SmolLM3Config(**SMALL, no_rope_layers=[1, 0]),
    "Ministral 3, scaled queries": lambda: hf.Ministral3Config(
        **SMALL, rope_parameters={**MINISTRAL, "original_max_position_embeddings": 32}
    ),
    "StableLM": lambda: hf.StableLmConfig(**SMALL),
    "Cohere": lambda: hf.CohereConfig(**SMALL),
    "Helium": lambda: hf.HeliumConfig(**SMALL, head_dim=8),
    "Ernie": lambda: hf.Ernie4_5Config(**SMALL),
    "GLM": lambda: hf.GlmConfig(**SMALL, head_dim=8),
    "Arcee": lambda: hf.ArceeConfig(**SMALL),
    "LFM 2": lambda: hf.Lfm2Config(**SMALL),
    "Mixtral": lambda: hf.MixtralConfig(**SMALL, num_local_experts=2),
    "Llama, dynamic positions": lambda: hf.LlamaConfig(**SMALL, rope_parameters=DYNAMIC),
    "Llama, other activation": lambda: hf.LlamaConfig(**SMALL, hidden_act="gelu"),
}


@pytest.mark.parametrize("family", SERVED)
def test_a_llama_like_model_computes_what_transformers_does(family: str) -> None:
    """Two rows of different length, in pieces, then token by token, up to the end of the context."""
    model = model_of(SERVED[family]())
    network = network_of(model)
    rows = [some_tokens(min(60, network.context), 1), some_tokens(23, 2)]
    for row, found in zip(rows, step_through(network, rows), strict=True):
        assert apart(model, row, found) < CLOSE


@pytest.mark.parametrize("family", REFUSED)
def test_a_model_that_is_built_differently_is_refused(family: str) -> None:
    """It is never computed in a way that is only nearly its own."""
    with pytest.raises(NotLlamaLike):
        network_of(model_of(REFUSED[family]()))


@pytest.mark.parametrize(
    "config",
    [
        lambda: hf.GraniteConfig(**SMALL, logits_scaling=1.2),
        lambda: hf.GraniteConfig(**SMALL, residual_multiplier=0.9),
        lambda: hf.GraniteConfig(**SMALL, embedding_multiplier=1.1),
        lambda: hf.SmolLM3Config(**SMALL, no_rope_layers=[1, 0]),
        lambda: hf.SmolLM3Config(**{**SMALL, "initializer_range": 0.05}, no_rope_layers=[0, 1]),
    ],
    ids=["logits", "residual", "embedding", "positions", "positions that matter little"],
)
def test_a_small_difference_does_not_hide_in_the_rounding_of_bf16(config: Any) -> None:
    with pytest.raises(NotLlamaLike):
        network_of(model_of(config(), torch.bfloat16))


@pytest.mark.parametrize("family", ["Llama", "Qwen 2", "Qwen 3", "Mistral"])
def test_in_bf16_the_network_is_as_exact_as_transformers(family: str) -> None:
    exact, rounded = model_of(SERVED[family]()), model_of(SERVED[family](), torch.bfloat16)
    exact.load_state_dict({k: v.float() for k, v in rounded.state_dict().items()})
    row = some_tokens(40)
    found = step_through(network_of(rounded), [row])[0]
    with torch.inference_mode():
        wanted, theirs = (
            model(input_ids=torch.tensor([row])).logits[0].float() for model in (exact, rounded)
        )
    counts = sorted(found)
    ours = torch.stack([found[count] for count in counts])
    picked = [count - 1 for count in counts]
    our_error = (ours - wanted[picked]).abs().mean()
    assert our_error < 1.5 * (theirs - wanted)[picked].abs().mean()


@pytest.mark.parametrize(
    ("family", "context"),
    [("Mistral, sliding window", 40), ("Qwen 2, some layers sliding", 40), ("Mistral", 128)],
)
def test_a_conversation_stays_shorter_than_a_sliding_window(family: str, context: int) -> None:
    assert network_of(model_of(SERVED[family]())).context == context


def test_a_window_smaller_than_the_check_is_no_obstacle() -> None:
    model = model_of(hf.MistralConfig(**SMALL, sliding_window=10))
    network, row = network_of(model), some_tokens(10)
    assert network.context == 10
    assert apart(model, row, step_through(network, [row])[0]) < CLOSE


def test_the_context_is_what_the_model_and_the_settings_allow() -> None:
    model = model_of(SERVED["Llama"]())
    assert network_of(model, context=100).context == 100
    assert network_of(model, context=4096).context == 128


def test_positions_beyond_the_first_room_are_right() -> None:
    """The cache and the table of angles grow from 256 to 512 to 1024 on the way."""
    model = model_of(hf.LlamaConfig(**{**SMALL, "max_position_embeddings": 1024}))
    network = network_of(model)
    rows = [some_tokens(560, 1), some_tokens(270, 2)]
    for row, found in zip(rows, step_through(network, rows), strict=True):
        assert apart(model, row, found) < CLOSE


def test_rows_do_not_see_each_other() -> None:
    """Four rows in one batch, each as it is alone."""
    model = model_of(SERVED["Qwen 3"]())
    network = network_of(model)
    rows = [some_tokens(count, count) for count in (30, 12, 45, 27)]
    for row, found in zip(rows, step_through(network, rows), strict=True):
        assert apart(model, row, found) < CLOSE


def test_int8_weights_stay_close() -> None:
    model = model_of(SERVED["Llama"](), torch.bfloat16)
    exact = network_of(model_of(SERVED["Llama"]()))
    row = some_tokens(30)
    wanted = step_through(exact, [row])[0]
    found = step_through(network_of(model, TorchOps(torch.bfloat16, int8=True)), [row])[0]
    error = torch.stack([(found[i] - wanted[i]).abs().mean() for i in found]).mean()
    assert error < 0.1 * torch.stack(list(wanted.values())).std()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused_with_a_sentence(dtype: torch.dtype) -> None:
    model = model_of(SERVED["Llama"](), dtype)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 3] = float("nan")
    with pytest.raises(BadVersion, match=r"^The base model computes values that are not finite"):
        network_of(model)
