"""The compiled operations compute what the ones in torch do, on every kind of processor.

Both are compared with the exact result: rounding to bf16 may put them apart, but the compiled ones
must not be worse. The libraries are kept in pytest's cache from run to run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

from cl.model.engine import native
from cl.model.engine.batch import Batch, Feed
from cl.model.engine.native import NativeOps, NotCompiled, compiled
from cl.model.engine.network import Network, NotLlamaLike
from cl.model.engine.ops import TorchOps, rounded
from tests.model.tiny_networks import (
    PROJECTIONS,
    SMALL,
    model_of,
    network_of,
    some_tokens,
    step_through,
    write_adapter,
)

BF16, HALF_STEP = torch.bfloat16, 2.0**-8  # rounding to bf16 moves a number by so much of itself
IN_TORCH, EXACT = TorchOps(BF16), TorchOps(torch.float32)
PROCESSORS = {
    "this one": ["-march=native"],
    "AVX-512 without bf16": ["-march=native", "-mno-avx512bf16"],
    "AVX2": ["-march=haswell"],
}
SHAPES = [(16, 2), (64, 3), (80, 1), (128, 4)]  # head size, query heads that share a key head
TOKENS = [1, 2, 3, 5, 7, 8, 9, 13, 16, 17, 40]

Build = Callable[..., NativeOps]


@pytest.fixture(scope="module")
def build(request: pytest.FixtureRequest) -> Build:
    folder = Path(request.config.cache.mkdir("kernels"))

    def make(
        processor: str = "this one", head: int = 16, group: int = 2, **more: bool
    ) -> NativeOps:
        if processor != "this one" and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
            pytest.skip("this is no x86 processor with AVX2")
        with pytest.MonkeyPatch.context() as patch:
            flags = [flag for flag in native._FLAGS if flag != "-march=native"]
            patch.setattr(native, "_FLAGS", [*flags, *PROCESSORS[processor]])
            threads = torch.get_num_threads()
            torch.set_num_threads(3)
            try:
                return compiled(head, group, folder, **more)
            except NotCompiled as problem:
                pytest.skip(str(problem))
            finally:
                torch.set_num_threads(threads)

    return make


@pytest.fixture(scope="module", params=PROCESSORS)
def ops(request: pytest.FixtureRequest, build: Build) -> NativeOps:
    return build(request.param)


def drawn(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(BF16)


def assert_as_exact(ours: Tensor, in_torch: Tensor, exact: Tensor) -> None:
    """Not further from the truth than torch, but for half a step of bf16 at the largest number."""
    assert ours.shape == exact.shape
    ours_off, theirs_off = (ours.double() - exact).abs(), (in_torch.double() - exact).abs()
    step = HALF_STEP * float(exact.abs().max())
    assert float(ours_off.max()) <= 1.5 * float(theirs_off.max()) + step
    assert float(ours_off.mean()) <= 1.5 * float(theirs_off.mean()) + 0.01 * step


def assert_only_rounded(ours: Tensor, exact: Tensor, room: Tensor | float = 0.0) -> None:
    """Each number is the exact one rounded to bf16; `room` is for float32 sums."""
    assert bool(((ours.double() - exact).abs() <= 1.01 * HALF_STEP * exact.abs() + room).all())


# -- products ----------------------------------------------------------------------------------


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(
    ("into", "out"), [(64, 64), (2, 7), (6, 95), (48, 1), (130, 33), (576, 64)]
)
def test_a_product_is_rounded_once(ops: NativeOps, into: int, out: int, biased: bool) -> None:
    weight, bias = drawn(out, into, seed=1), drawn(out, seed=2) if biased else None
    product = ops.linear(weight, bias)
    for tokens in TOKENS:
        x = drawn(tokens, into, seed=tokens)
        exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
        room = 1e-6 * (x.double().abs() @ weight.double().abs().T + 1)
        assert_only_rounded(product(x), exact, room)


def test_a_product_asked_to_be_exact_is_not_rounded(ops: NativeOps) -> None:
    weight, bias, x = drawn(70, 64, seed=1), drawn(70, seed=2), drawn(11, 64, seed=3)
    y = ops.linear(weight, bias, exact=True)(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, x.float() @ weight.float().T + bias.float(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("into", "out"), [(64, 64), (6, 95), (130, 33)])
def test_a_product_in_8_bits_is_that_of_the_rounded_weights(
    build: Build, into: int, out: int, exact: bool
) -> None:
    weight, bias = drawn(out, into, seed=1), drawn(out, seed=2)
    numbers, scale = rounded(weight)
    kept = numbers.double() * scale.double()[:, None]
    assert float((kept - weight.double()).abs().max()) <= 0.51 * float(scale.max())
    for processor in PROCESSORS:
        product = build(processor, int8=True).linear(weight, bias, exact=exact)
        for tokens in (1, 5, 8, 11, 40):
            x = drawn(tokens, into, seed=tokens)
            wanted = x.double() @ kept.T + bias.double()
            room = 1e-6 * (x.double().abs() @ kept.abs().T + 1)
            assert_only_rounded(product(x), wanted, room)


@pytest.mark.parametrize("rank", [1, 2, 3, 8, 17])
@pytest.mark.parametrize(
    ("into", "ends"), [(64, [64]), (6, [33, 50, 81]), (130, [32, 64]), (64, [1, 2, 3])]
)
def test_a_low_rank_update_is_added_once(
    ops: NativeOps, into: int, ends: list[int], rank: int
) -> None:
    down, up = drawn(rank * len(ends), into, seed=1), drawn(rank, ends[-1], seed=2)
    for tokens in TOKENS:
        x, y = drawn(tokens, into, seed=3), drawn(tokens, ends[-1], seed=4)
        results = []
        for made_by in (ops, IN_TORCH, EXACT):
            result = y.double() if made_by is EXACT else y.clone()
            kind = torch.float64 if made_by is EXACT else BF16
            made_by.low_rank(down.to(kind), up.to(kind), ends)(x.to(kind), result)
            results.append(result)
        assert_as_exact(*results)


def test_a_low_rank_update_touches_only_its_rows_and_parts(ops: NativeOps) -> None:
    down, up, ends = drawn(6, 64, seed=1), drawn(2, 90, seed=2), [40, 50, 90]
    up[:, 40:50] = 0
    x, y = drawn(9, 64, seed=3), drawn(9, 90, seed=4)
    before = y.clone()
    ops.low_rank(down, up, ends)(x[2:7], y[2:7])
    changed = y != before
    assert not changed[:2].any()
    assert not changed[7:].any()
    assert not changed[:, 40:50].any()
    assert changed[2:7, :40].float().mean() > 0.9


# -- pointwise ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 47, 576])
@pytest.mark.parametrize("with_delta", [False, True])
def test_the_norm_is_rounded_once_and_the_sum_not_at_all(
    ops: NativeOps, size: int, with_delta: bool
) -> None:
    hidden, weight = drawn(7, size, seed=1, scale=30.0).float() + 0.001, 1 + drawn(size).float()
    delta = drawn(7, size, seed=2) if with_delta else None
    summed = hidden + (0 if delta is None else delta.float())
    out = ops.add_norm(hidden, delta, weight, 1e-5)
    assert torch.equal(hidden, summed)
    wide = summed.double()
    exact = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    assert_only_rounded(out, exact, 1e-6 * exact.abs())


def test_the_norm_of_nothing_is_nothing(ops: NativeOps) -> None:
    assert not ops.add_norm(torch.zeros(2, 32), None, torch.ones(32), 1e-5).any()


@pytest.mark.parametrize("size", [1, 33, 200])
def test_the_gate_is_rounded_once(ops: NativeOps, size: int) -> None:
    gate_up = drawn(5, 2 * size, seed=1, scale=4.0)
    gate, up = gate_up.double().chunk(2, -1)
    exact = gate / (1 + (-gate).exp()) * up
    assert_only_rounded(ops.gate(gate_up), exact, 1e-6 * exact.abs())


def test_the_gate_is_right_for_extreme_values(ops: NativeOps) -> None:
    values = [0.0, -0.0, 1e-40, -1e-40, 1e-30, 8.0, -8.0, 80.0, -80.0, 89.0, -89.0, 100.0, -100.0]
    gate = torch.tensor([*values, 1e38, -1e20]).to(BF16)
    gate_up = torch.cat([gate, torch.ones_like(gate)])[None]
    exact = gate.double() / (1 + (-gate.double()).exp())
    out = ops.gate(gate_up)[0].double()
    assert bool(out.isfinite().all())
    assert bool(((out - exact).abs() <= 1.01 * HALF_STEP * exact.abs() + 1e-15).all())


def test_what_is_not_a_number_stays_so(ops: NativeOps) -> None:
    nan = torch.full((1, 64), float("nan"))
    assert ops.gate(nan.to(BF16)).isnan().all()
    assert ops.add_norm(nan.clone(), None, torch.ones(64), 1e-5).isnan().all()
    assert ops.linear(drawn(40, 64), None)(nan.to(BF16)).isnan().all()


# -- attention ---------------------------------------------------------------------------------

# (slot, tokens) of each step: pieces beside single tokens, in several slots, to position 563.
STEPS = [
    [(2, 300)],
    [(0, 5), (2, 1)],
    [(0, 1), (2, 1), (3, 33)],
    [(2, 260), (0, 1)],
    [(2, 1), (0, 2), (3, 1)],
]


@dataclass
class Attention:
    """The attention of a network alone, with a cache of its own."""

    net: Network
    ops: TorchOps
    dtype: torch.dtype = BF16
    garbage: float | None = None  # what lies in the cache wherever nothing has been written

    @torch.inference_mode()
    def run(self) -> list[Tensor]:
        net, self.net.ops, self.net.dtype = self.net, self.ops, self.dtype
        cache = net.new_cache(4)
        if self.garbage is not None:
            cache.reserve(1024)
            for layer in (*cache.keys, *cache.values):
                layer.fill_(self.garbage)
        width, outputs = (net.q_heads + 2 * net.k_heads) * net.head, []
        for number, step in enumerate(STEPS):
            held = {slot: len(cache.slots[slot].tokens) for slot, _ in step}
            feeds = [Feed(slot, "", [0] * count, held[slot], True) for slot, count in step]
            batch = Batch(feeds, torch.device("cpu"))
            cache.reserve(batch.longest)
            net._turn(batch)
            qkv = drawn(len(batch.tokens), width, seed=number).to(self.dtype)
            self.ops.rotate_and_store(qkv, 0, batch, cache, net)
            outputs += [
                qkv[:, : net.q_heads * net.head],
                self.ops.attend(qkv, 0, batch, cache, net),
            ]
            for feed in feeds:
                cache.slots[feed.slot].tokens += feed.tokens
        return outputs


def network_with(head: int, group: int, family: Any = hf.Qwen3Config) -> Network:
    """Qwen 3 has norms of queries and keys, Llama has none."""
    sizes = {
        **SMALL,
        "num_hidden_layers": 1,
        "hidden_size": 16 * group,
        "num_attention_heads": 2 * group,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
    }
    return network_of(model_of(family(**sizes, head_dim=head), BF16))


CUTS = [("this one", *shape) for shape in SHAPES]
CUTS += [(processor, 16, 2) for processor in PROCESSORS if processor != "this one"]


@pytest.mark.parametrize("family", [hf.LlamaConfig, hf.Qwen3Config])
@pytest.mark.parametrize(("processor", "head", "group"), CUTS)
def test_attention_is_as_exact_as_in_torch(
    build: Build, processor: str, head: int, group: int, family: Any
) -> None:
    net, ops = network_with(head, group, family), build(processor, head, group)
    ours, in_torch = Attention(net, ops).run(), Attention(net, IN_TORCH).run()
    exact = Attention(net, EXACT, torch.float32).run()
    for step in zip(ours, in_torch, [e.double() for e in exact], strict=True):
        assert_as_exact(*step)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("processor", PROCESSORS)
def test_what_lies_in_unused_places_of_the_cache_does_not_matter(
    build: Build, processor: str, garbage: float
) -> None:
    net, ops = network_with(16, 2), build(processor)
    for clean, dirty in zip(
        Attention(net, ops).run(), Attention(net, ops, garbage=garbage).run(), strict=True
    ):
        assert torch.equal(clean, dirty)


def test_attention_to_one_strong_key_and_to_equal_keys(build: Build) -> None:
    """The shares of the values: all of one, and the same of each."""
    net, ops = network_with(16, 2, hf.LlamaConfig), build()
    net.ops, count = ops, 37
    cache = net.new_cache(1)
    batch = Batch([Feed(0, "", [0] * count, 0, True)], torch.device("cpu"))
    net._turn(batch)
    qkv = drawn(count, (net.q_heads + 2 * net.k_heads) * net.head, seed=1)
    qkv[:, : net.q_heads * net.head] = 0  # queries that ask for nothing
    values = qkv[:, -net.k_heads * net.head :].float().view(count, net.k_heads, net.head)
    with torch.inference_mode():
        ops.rotate_and_store(qkv, 0, batch, cache, net)
        out = ops.attend(qkv, 0, batch, cache, net).float().view(count, net.k_heads, -1, net.head)
    means = values.cumsum(0) / torch.arange(1, count + 1)[:, None, None]
    assert float((out - means[:, :, None]).abs().max()) < 0.02


# -- together ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("processor", "head", "group"), CUTS)
def test_a_whole_network_with_versions_is_as_exact_as_in_torch(
    build: Build, tmp_path: Path, processor: str, head: int, group: int
) -> None:
    heads = {"hidden_size": 24 * group, "num_attention_heads": 2 * group}
    sizes = {**SMALL, **heads, "intermediate_size": 46}
    config = hf.Qwen3Config(**sizes, head_dim=head, attention_bias=True)
    write_adapter(config, tmp_path, 1, r=3, rank_pattern={"v_proj": 5})
    rows, versions = [some_tokens(50, 1), some_tokens(33, 2)], ["base", "v0001"]
    found = []
    for ops, dtype in ((build(processor, head, group), BF16), (IN_TORCH, BF16), (EXACT, None)):
        model = model_of(config, BF16).to(dtype or torch.float32)
        network = network_of(model, ops)
        logits = step_through(network, rows, versions, {"v0001": network.load_adapter(tmp_path)})
        found.append([torch.stack(list(row.values())) for row in logits])
    for ours, in_torch, exact in zip(*found, strict=True):
        off, torch_off = (ours - exact).abs().mean(), (in_torch - exact).abs().mean()
        assert off < 1.5 * torch_off
        assert off < 0.1 * exact.std()


def test_a_network_in_8_bits_stays_close(build: Build, tmp_path: Path) -> None:
    config = hf.LlamaConfig(**SMALL, head_dim=16)
    write_adapter(config, tmp_path, 1, target_modules=PROJECTIONS[:4])
    rows, versions = [some_tokens(40, 1), some_tokens(33, 2)], ["base", "v0001"]
    found = []
    for ops, dtype in ((build(int8=True), BF16), (EXACT, torch.float32)):
        network = network_of(model_of(config, BF16).to(dtype), ops)
        logits = step_through(network, rows, versions, {"v0001": network.load_adapter(tmp_path)})
        found.append([torch.stack(list(row.values())) for row in logits])
    for ours, exact in zip(*found, strict=True):
        assert (ours - exact).abs().mean() < 0.1 * exact.std()


def test_a_default_dtype_that_another_thread_sets_changes_nothing(
    build: Build, tmp_path: Path
) -> None:
    """transformers sets it for the whole process while it loads a model."""
    config = hf.LlamaConfig(**{**SMALL, "max_position_embeddings": 512}, head_dim=16)
    write_adapter(config, tmp_path, 1)
    rows, versions = [some_tokens(300, 1), some_tokens(33, 2)], ["base", "v0001"]
    for make in (build, lambda: TorchOps(BF16)):
        found = []
        for default in (torch.float32, BF16):
            network = network_of(model_of(config, BF16), make())
            torch.set_default_dtype(default)
            try:
                adapters = {"v0001": network.load_adapter(tmp_path)}
                logits = step_through(network, rows, versions, adapters)
            finally:
                torch.set_default_dtype(torch.float32)
            found.append([torch.stack(list(row.values())) for row in logits])
            if isinstance(network.ops, NativeOps):
                assert network.ops._scratch.dtype == torch.float32
        for usual, other in zip(*found, strict=True):
            assert other.dtype == torch.float32
            assert torch.equal(usual, other)


def test_an_odd_number_of_inputs_is_left_to_torch(build: Build) -> None:
    model = model_of(hf.LlamaConfig(**{**SMALL, "intermediate_size": 47}, head_dim=16), BF16)
    with pytest.raises(NotLlamaLike, match="odd"):
        network_of(model, build())


def test_heads_that_are_not_made_of_whole_vectors_are_left_to_torch(tmp_path: Path) -> None:
    with pytest.raises(NotCompiled, match="heads of 24 numbers"):
        compiled(24, 1, tmp_path)
    assert not list(tmp_path.iterdir())
