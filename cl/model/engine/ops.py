"""The operations of a Llama-like network, in torch: any device, any precision.

`native.py` has the same ones compiled, for bf16 on a processor. T is the number of tokens in a step,
of which the first S are single tokens: the newest ones of rows that are being written.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cl.model.engine.batch import Batch
from cl.model.engine.cache import Cache, Layout

Linear = Callable[[Tensor], Tensor]
LowRank = Callable[[Tensor, Tensor], None]

_ROWS = 16  # the batch oneDNN chooses its blocks for; others work as well, measured from 1 to 512


class TorchOps:
    """`dtype` is what the network computes in; the residual stream stays in float32."""

    def __init__(self, dtype: torch.dtype, *, int8: bool = False) -> None:
        self._dtype = dtype
        self._int8 = int8

    def layout(self, head: int) -> Layout:
        """How keys and values lie in the cache."""
        return Layout(1, (head,), 1, (head,))

    def linear(self, weight: Tensor, bias: Tensor | None, *, exact: bool = False) -> Linear:
        """x (T, in) -> (T, out) with weights of shape (out, in), laid out as is fastest to read.

        `exact` asks for float32 where that costs nothing: rounded logits make ties.
        """
        if self._int8:
            return _int8(weight, bias)
        if can_prepack(weight):
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
            product = torch.ops.mkldnn._linear_pointwise.default
            return lambda x: product(x, packed, bias, "none", [], "")
        return lambda x: functional.linear(x, weight, bias)

    def low_rank(self, down: Tensor, up: Tensor, ends: Sequence[int]) -> LowRank:
        """(x (n, in), y (n, out)) -> None: y += what an adapter adds for x (LoRA, Hu 2021).

        down (parts x rank, in), up (rank, out); part p adds to the outputs up to ends[p].
        """

        def add(x: Tensor, y: Tensor) -> None:
            inner = (x @ down.T).view(len(x), len(ends), -1)
            begin = 0
            for index, end in enumerate(ends):
                y[:, begin:end] += inner[:, index] @ up[:, begin:end]
                begin = end

        return add

    def add_norm(self, hidden: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        """hidden (T, size) += delta, in place; returns its RMS norm (Zhang, Sennrich 2019)."""
        if delta is not None:
            hidden += delta
        return functional.rms_norm(hidden, weight.shape, weight, eps).to(self._dtype)

    def gate(self, gate_up: Tensor) -> Tensor:
        """(T, 2 size) -> (T, size): SwiGLU (Shazeer 2020)."""
        gate, up = gate_up.chunk(2, -1)
        return functional.silu(gate) * up

    def rotate_and_store(
        self, qkv: Tensor, layer: int, batch: Batch, cache: Cache, net: Any
    ) -> None:
        """Turn queries and keys by their position (RoPE, Su 2021); keys and values go to the cache.

        qkv (T, heads x head size) holds the turned queries afterwards.
        """
        heads = qkv.view(len(qkv), -1, net.head)
        turned = heads[:, : net.q_heads + net.k_heads].float()
        if net.layers[layer].q_norm is not None:
            turned = self._normed(turned, net, layer)
        half = turned.shape[-1] // 2
        swapped = torch.cat([-turned[..., half:], turned[..., :half]], -1)
        turned = turned * batch.cos[:, None] + swapped * batch.sin[:, None]
        heads[:, : net.q_heads] = turned[:, : net.q_heads].to(qkv.dtype)
        place = batch.slots, slice(None), batch.positions
        cache.keys[layer][place] = turned[:, net.q_heads :].to(qkv.dtype)
        cache.values[layer][place] = heads[:, net.q_heads + net.k_heads :]

    def attend(self, qkv: Tensor, layer: int, batch: Batch, cache: Cache, net: Any) -> Tensor:
        """What the tokens see of their rows up to themselves: (T, query heads x head size)."""
        keys, values, width = cache.keys[layer], cache.values[layer], net.q_heads * net.head
        out = qkv.new_empty(len(qkv), width)
        if batch.singles:
            self._attend_singles(qkv, keys, values, batch, net, out)
        for part in batch.segments:
            count, seen = part.end - part.begin, part.position + part.end - part.begin
            queries = qkv[part.begin : part.end, :width].view(1, count, net.q_heads, net.head)
            mask = None
            if part.position:
                mask = torch.ones(count, seen, dtype=torch.bool, device=qkv.device)
                mask = mask.tril(part.position)
            read = functional.scaled_dot_product_attention(
                queries.transpose(1, 2),
                keys[part.slot, None, :, :seen],
                values[part.slot, None, :, :seen],
                attn_mask=mask,
                is_causal=mask is None,
                scale=net.scaling,
                enable_gqa=True,
            )
            out[part.begin : part.end] = read[0].transpose(0, 1).reshape(count, width)
        return out

    def _attend_singles(
        self, qkv: Tensor, keys: Tensor, values: Tensor, batch: Batch, net: Any, out: Tensor
    ) -> None:
        count = batch.singles
        # Query heads that share a key head stand in for positions: no key is copied.
        queries = qkv[:count, : out.shape[1]].view(count, net.k_heads, -1, net.head)
        if count == 1:
            slot, seen = batch.rows[0]
            mask, slots = None, slice(slot, slot + 1)
        else:
            mask = batch.mask
            slots, seen = slice(0, len(mask)), mask.shape[-1]
            spread = queries.new_zeros(len(mask), *queries.shape[1:])
            spread[batch.slots[:count]] = queries
            queries = spread
        read = functional.scaled_dot_product_attention(
            queries,
            keys[slots, :, :seen],
            values[slots, :, :seen],
            attn_mask=mask,
            scale=net.scaling,
        )
        out[:count] = (read if count == 1 else read[batch.slots[:count]]).reshape(count, -1)

    def _normed(self, heads: Tensor, net: Any, layer: int) -> Tensor:
        weights = net.layers[layer]
        normed = torch.cat(
            [
                functional.rms_norm(heads[:, : net.q_heads], (net.head,), weights.q_norm, net.eps),
                functional.rms_norm(heads[:, net.q_heads :], (net.head,), weights.k_norm, net.eps),
            ],
            1,
        )
        return normed.to(self._dtype).float()


def can_prepack(weight: Tensor) -> bool:
    """Whether oneDNN multiplies bf16 on this processor, and not by way of float32."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.bfloat16
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (out, in) in 8 bits and the float32 scale of each output: half as much to read."""
    wide = weight.float()
    scale = wide.abs().amax(1).clamp(min=1e-8) / 127
    return (wide / scale[:, None]).round().to(torch.int8), scale


def _int8(weight: Tensor, bias: Tensor | None) -> Linear:
    numbers, scale = rounded(weight)
    product, scale = torch.ops.aten._weight_int8pack_mm, scale.to(weight.dtype)
    if bias is None:
        return lambda x: product(x, numbers, scale)
    return lambda x: product(x, numbers, scale) + bias
