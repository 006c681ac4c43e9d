"""Faster layers compute what transformers' own do, gradients too; unknown ones stay as they are."""

from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from cl.model.training.fast_layers import NotShared, Shared, _Attend, speed_up
from cl.model.training.lora import Adapter
from tests.model.tiny_networks import SMALL, model_of, some_tokens

pytestmark = pytest.mark.slow  # as everything that imports torch

# Rounding differs from processor to processor: by up to 1.3e-5 here, where one rounding of the weights
# alone moves a gradient by 4e-6.
CLOSE = 1e-4
LONG = {**SMALL, "max_position_embeddings": 256}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
KNOWN = {
    "Llama": hf.LlamaConfig(**LONG),
    "Llama, head tied": hf.LlamaConfig(**{**LONG, "tie_word_embeddings": True}),
    "Llama, biases": hf.LlamaConfig(**LONG, attention_bias=True, mlp_bias=True),
    "Llama, heads of another size": hf.LlamaConfig(**LONG, head_dim=12),
    "Llama, a key head for each": hf.LlamaConfig(**{**LONG, "num_key_value_heads": 4}),
    "Llama, one key head": hf.LlamaConfig(**{**LONG, "num_key_value_heads": 1}),
    "yarn positions": hf.LlamaConfig(**LONG, rope_parameters=YARN),
    "Mistral": hf.MistralConfig(**LONG, sliding_window=None),
    "Mistral, sliding window": hf.MistralConfig(**LONG, sliding_window=40),
    "Qwen 2": hf.Qwen2Config(**LONG),
    "Qwen 3": hf.Qwen3Config(**LONG, head_dim=16),
}
NOT_ALL = {
    "Gemma": (hf.GemmaConfig(**LONG, head_dim=8), {"self_attn"}),
    "Gemma 2": (hf.Gemma2Config(**LONG, head_dim=8), set()),
    "GPT-2": (hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=96), set()),
    "GPT-NeoX": (hf.GPTNeoXConfig(**LONG), set()),
    "OLMo 2": (hf.Olmo2Config(**LONG), {"norm", "post_feedforward_layernorm"}),
    "SmolLM 3, positions in some": (
        hf.SmolLM3Config(**LONG, no_rope_layers=[1, 0]),
        {"self_attn", "norm"},
    ),
}


def tokens(length: int, rows: int = 2) -> Tensor:
    return torch.tensor([some_tokens(length, seed) for seed in range(rows)])


def learn(model: Any, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the gradient of every weight of an adapter that has learned something."""
    adapter = Adapter.attach(model, 3, 7, 0)
    state = adapter.state()
    dice = torch.Generator().manual_seed(1)
    adapter.restore({n: 0.2 * torch.randn(t.shape, generator=dice) for n, t in state.items()})
    logits = model(input_ids=ids, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    return logits.detach(), list(torch.autograd.grad(loss, adapter.parameters()))


def apart(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def assert_same(config: Any, length: int) -> None:
    fast, slow = model_of(config), model_of(config)
    speed_up(fast)
    (logits, gradients), (wanted, wanted_gradients) = (
        learn(model, tokens(length)) for model in (fast, slow)
    )
    assert apart(logits, wanted) < CLOSE
    assert max(map(apart, gradients, wanted_gradients)) < CLOSE


@pytest.mark.parametrize("config", KNOWN.values(), ids=KNOWN)
def test_attention_and_norms_are_replaced_and_everything_computes_the_same(config: Any) -> None:
    model = model_of(config)
    wanted = {
        path
        for path, module in model.named_modules()
        if path.endswith(("self_attn", "norm", "layernorm"))
    }
    assert set(speed_up(model)) == wanted
    assert_same(config, 33)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 63, 64, 65, 96, 150, 200])
def test_any_length_gives_the_same(length: int) -> None:
    fast, slow = model_of(KNOWN["Qwen 3"]), model_of(KNOWN["Qwen 3"])
    speed_up(fast)
    with torch.no_grad():
        ours, theirs = (m(input_ids=tokens(length), use_cache=False).logits for m in (fast, slow))
    assert apart(ours, theirs) < CLOSE
    if length == 150:
        assert_same(KNOWN["Qwen 3"], length)


@pytest.mark.parametrize(("config", "replaced"), NOT_ALL.values(), ids=NOT_ALL)
def test_what_is_different_stays_as_it_is(config: Any, replaced: set[str]) -> None:
    model = model_of(config)
    found = {path.rpartition(".")[2] for path in speed_up(model)}
    assert found - {"input_layernorm", "post_attention_layernorm", "q_norm", "k_norm"} <= replaced
    assert_same(config, 20)


def test_padding_at_the_right_changes_nothing() -> None:
    model = model_of(KNOWN["Qwen 2"])
    speed_up(model)
    ids = tokens(70)
    with torch.no_grad():
        alone = model(input_ids=ids[:1, :41], use_cache=False).logits
        beside = model(input_ids=ids, use_cache=False).logits[:1, :41]
    assert apart(alone, beside) < CLOSE


@pytest.mark.parametrize("config", KNOWN.values(), ids=KNOWN)
def test_rows_that_share_a_beginning_compute_what_each_does_alone(config: Any) -> None:
    model = model_of(config)
    speed_up(model)
    ids = tokens(41, rows=3)
    ids[:, :17] = ids[0, :17]
    packed = torch.cat([ids[0, :17], ids[:, 17:].flatten()])[None]
    if getattr(config, "sliding_window", None):
        with pytest.raises(NotShared):
            model(input_ids=packed, use_cache=False, shared=Shared(17, 3))
        return
    Adapter.attach(model, 3, 7, 0)
    learned = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in learned:
            parameter += 0.2 * torch.randn(parameter.shape)
    wanted = model(input_ids=ids, use_cache=False).logits[:, 17:]
    found = model(input_ids=packed, use_cache=False, shared=Shared(17, 3)).logits[0, 17:]
    found = found.unflatten(0, (3, -1))
    assert apart(found, wanted) < CLOSE
    weights = torch.randn(wanted.shape)
    ours, theirs = (torch.autograd.grad((x * weights).sum(), learned) for x in (found, wanted))
    assert max(map(apart, ours, theirs)) < CLOSE


def test_a_mask_or_a_cache_goes_the_old_way() -> None:
    fast, slow = model_of(KNOWN["Llama"]), model_of(KNOWN["Llama"])
    speed_up(fast)
    ids = tokens(12)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    with torch.no_grad():
        ours, theirs = (m(input_ids=ids, attention_mask=mask).logits[:, 5:] for m in (fast, slow))
        assert apart(ours, theirs) < 1e-6
        ours, theirs = (
            m.generate(ids, max_new_tokens=9, do_sample=False, pad_token_id=0) for m in (fast, slow)
        )
    assert torch.equal(ours, theirs)


def test_it_does_not_matter_whether_the_adapter_comes_first() -> None:
    first, last = model_of(KNOWN["Qwen 3"]), model_of(KNOWN["Qwen 3"])
    speed_up(first)
    Adapter.attach(first, 3, 7, 0)
    Adapter.attach(last, 3, 7, 0)
    assert speed_up(last)
    assert speed_up(last) == []
    ours, theirs = (m(input_ids=tokens(9), use_cache=False).logits for m in (first, last))
    assert torch.equal(ours, theirs)


def test_in_bf16_it_is_as_close_to_float32_as_transformers_own() -> None:
    exact, fast, slow = (
        model_of(KNOWN["Llama"], dtype) for dtype in (torch.float32, torch.bfloat16, torch.bfloat16)
    )
    exact.load_state_dict(slow.state_dict())
    assert speed_up(fast)
    wanted, gradients = learn(exact, tokens(150))
    errors = []
    for model in (fast, slow):
        logits, found = learn(model, tokens(150))
        errors.append([apart(a.float(), b) for a, b in zip(found, gradients, strict=True)])
        errors[-1].append(apart(logits.float(), wanted))
    ours, theirs = (sum(e) / len(e) for e in errors)
    assert ours < 1.1 * theirs


def test_attention_agrees_with_finite_differences() -> None:
    dice = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, 5, heads, 4, generator=dice, dtype=torch.double, requires_grad=True)
        for heads in (4, 2, 2)
    )
    angles = torch.randn(1, 5, 4, generator=dice, dtype=torch.double)
    inputs = (q, k, v, angles.cos(), angles.sin(), 0.5)
    assert torch.autograd.gradcheck(_Attend.apply, inputs)
