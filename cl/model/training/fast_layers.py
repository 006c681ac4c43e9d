"""Llama-like layers whose training is faster on a processor: attention and RMS norm.

torch's own are slow there, most of all backward. Here each is one function with its backward pass
written out. A layer is replaced when it is put together in the known way and both agree on made-up
input in float32, whatever the model's name; everything else stays as it is. A SwiGLU of our own and
products for several layers at once (q, k, v; gate, up) were measured and gave nothing.

Rows that begin alike, as all chats under one system prompt do, may come as one: the beginning once
and then what each goes on with (`Shared`). Only attention looks from one position at others, so
everything else need not know.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 64  # queries at a time: what they must not see is hardly computed
_LANES = 32  # torch's softmax in bf16 is twice as slow for other widths
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Shared:
    """One sequence holds `prefix` positions and then `rows` rows, equally long, that go on from it."""

    prefix: int
    rows: int


class NotShared(Exception):
    """The model would have rows that share a beginning look at each other."""


def speed_up(model: Any) -> list[str]:
    """Replace the layers known to be slow. Returns the paths of what it replaced.

    For frozen models, and rows padded at the right: calls with a mask or a cache go the old way.
    """
    if next(model.parameters()).device.type != "cpu":
        return []
    replaced = []
    for path, module in model.named_modules():
        for is_such, forward, made_up in _KINDS:
            if "forward" not in vars(module) and is_such(module, model.config):
                inputs = made_up(module, torch.Generator().manual_seed(0))
                if _agree(module, forward, inputs):
                    module.forward = partial(forward, module, module.forward)
                    replaced.append(path)
    return replaced


def _agree(module: Any, forward: Callable[..., Any], inputs: dict[str, Any]) -> bool:
    """Whether both ways compute the same in float32, where rounding hides nothing."""
    wide = copy.deepcopy(module).float()
    with torch.no_grad():
        try:
            theirs, ours = wide(**inputs), forward(wide, wide.forward, **inputs)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            return False
    theirs, ours = (x[0] if isinstance(x, tuple) else x for x in (theirs, ours))
    return bool((theirs - ours).abs().max() <= _TOLERANCE * theirs.abs().max())


# -- RMS norm (Zhang, Sennrich 2019) -------------------------------------------------------------


def _is_norm(module: Any, _: Any) -> bool:
    return hasattr(module, "variance_epsilon") and [*dict(module.named_parameters())] == ["weight"]


def _norm_input(module: Any, dice: torch.Generator) -> dict[str, Any]:
    return {"hidden_states": torch.randn(3, len(module.weight), generator=dice)}


def _norm(module: Any, _: Any, hidden_states: Tensor) -> Any:
    return _norm_of(hidden_states, module.weight, module.variance_epsilon)


class _Norm(torch.autograd.Function):
    """w x / rms(x), in float32. No gradient for w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        factor: Tensor = (length.square() / x.shape[-1] + eps).rsqrt()
        ctx.save_for_backward(x, weight, factor)
        return (wide * factor).to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, y_grad: Tensor) -> tuple[Tensor, None, None]:
        x, weight, factor = ctx.saved_tensors
        normed, grad = x.float() * factor, (y_grad * weight).float()
        share = (grad * normed).mean(-1, keepdim=True)
        return grad.addcmul_(normed, share, value=-1).mul_(factor).to(x.dtype), None, None


# -- attention -----------------------------------------------------------------------------------

_PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj"}
_OTHER_SCORES = ("attn_logit_softcapping", "clip_qkv")  # what made-up input might not show


def _is_attention(module: Any, config: Any) -> bool:
    names = {name for name, _ in module.named_children()}
    return (
        names - {"q_norm", "k_norm"} == _PROJECTIONS
        and not list(module.parameters(recurse=False))
        and not any(getattr(config, name, None) for name in _OTHER_SCORES)
    )


def _attention_input(module: Any, dice: torch.Generator) -> dict[str, Any]:
    angles = torch.randn(1, 7, getattr(module, "head_dim", 2) // 2, generator=dice).repeat(1, 1, 2)
    return {
        "hidden_states": 4 * torch.randn(2, 7, module.q_proj.in_features, generator=dice),
        "position_embeddings": (angles.cos(), angles.sin()),
        "attention_mask": None,
    }


def _attention(
    module: Any,
    slow: Callable[..., Any],
    hidden_states: Tensor,
    position_embeddings: Any = None,
    attention_mask: Any = None,
    past_key_values: Any = None,
    shared: Shared | None = None,
    **more: Any,
) -> Any:
    drops = module.training and module.attention_dropout
    if attention_mask is not None or past_key_values is not None or drops:
        if shared:
            raise NotShared
        cache = {"past_key_values": past_key_values, **more}
        return slow(hidden_states, position_embeddings, attention_mask, **cache)
    shape = (*hidden_states.shape[:-1], -1, module.head_dim)
    q = module.q_proj(hidden_states).view(shape)
    k = module.k_proj(hidden_states).view(shape)
    v = module.v_proj(hidden_states).view(shape)
    if hasattr(module, "q_norm"):
        q, k = module.q_norm(q), module.k_norm(k)
    attend: Any = partial(_attend_shared, shared) if shared else _attend
    seen = attend(q, k, v, *position_embeddings, module.scaling)
    return module.o_proj(seen.flatten(2)), None


def _attend_shared(
    shared: Shared, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, scaling: float
) -> Tensor:
    """The prefix by itself; then each row, which sees the prefix and itself."""
    prefix = shared.prefix
    seen = _attend(*(x[:, :prefix] for x in (q, k, v)), cos[:, :prefix], sin[:, :prefix], scaling)
    own_q, own_k, own_v = (x[0, prefix:].unflatten(0, (shared.rows, -1)) for x in (q, k, v))
    keys, values = (
        torch.cat([x[:, :prefix].expand(shared.rows, -1, -1, -1), own], 1)
        for x, own in ((k, own_k), (v, own_v))
    )
    length = keys.shape[1]
    rest = _attend(own_q, keys, values, cos[:, :length], sin[:, :length], scaling)
    return torch.cat([seen, rest.flatten(0, 1)[None]], 1)


class _Attend(torch.autograd.Function):
    """Rotary positions (Su 2021) and causal attention with shared keys (Ainslie 2023).

    q (rows, length, heads, size), k and v (rows, total, key heads, size) -> like q; the queries are
    of the last positions. Those that share a key head stand below each other, (position, head): a
    block of positions is a matrix.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, scaling: float
    ) -> Tensor:
        rows, length, heads, size = q.shape
        total = k.shape[1]
        group, padding = heads // k.shape[2], (0, 0, 0, -total % _LANES)
        half = size // 2
        cos = cos[:, None, :, None]
        sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)[:, None, :, None]
        last = slice(total - length, None)
        queries = _matrices(_turned(_grouped(q, group), cos[:, :, last], sin[:, :, last]))
        keys = functional.pad(_matrices(_turned(_grouped(k, 1), cos, sin)), padding)
        values = functional.pad(_matrices(_grouped(v, 1)), padding)
        seen, shares = torch.empty_like(queries), []
        for block, end, mask in _blocks(length, total, group, q.dtype):
            scores = torch.baddbmm(
                mask, queries[:, block], keys[:, :end].transpose(1, 2), alpha=scaling
            )
            shares.append(torch.softmax(scores, -1))
            seen[:, block] = shares[-1] @ values[:, :end]
        ctx.save_for_backward(queries, keys, values, cos, sin, *shares)
        ctx.sizes = rows, length, total, group, scaling
        return _ungrouped(seen, rows, group)

    @staticmethod
    def backward(ctx: Any, out_grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, cos, sin, *shares = ctx.saved_tensors
        rows, length, total, group, scaling = ctx.sizes
        grad = _matrices(_grouped(out_grad, group))
        q_grad, k_grad, v_grad = (torch.zeros_like(x) for x in (queries, keys, values))
        blocks = _blocks(length, total, group, grad.dtype)
        for (block, end, _), share in zip(blocks, shares, strict=True):
            mine = grad[:, block]
            v_grad[:, :end].baddbmm_(share.transpose(1, 2), mine)
            by_share = mine @ values[:, :end].transpose(1, 2)
            by_score = torch._softmax_backward_data(by_share, share, -1, share.dtype).mul_(scaling)
            q_grad[:, block] = by_score @ keys[:, :end]
            k_grad[:, :end].baddbmm_(by_score.transpose(1, 2), queries[:, block])
        back = sin.roll(sin.shape[-1] // 2, -1)
        last = slice(total - length, None)
        q_grad = _turned(_split(q_grad, rows, group), cos[:, :, last], back[:, :, last])
        k_grad = _turned(_split(k_grad[:, :total], rows, 1), cos, back)
        return (
            q_grad.transpose(1, 2).flatten(2, 3),
            k_grad.transpose(1, 2).flatten(2, 3),
            _ungrouped(v_grad[:, :total], rows, 1),
            *(None, None, None),
        )


def _grouped(x: Tensor, group: int) -> Tensor:
    """(rows, length, heads, size) -> (rows, key heads, length, group, size)."""
    heads: Tensor = x.unflatten(2, (-1, group))
    return heads.transpose(1, 2)


def _matrices(x: Tensor) -> Tensor:
    """(rows, key heads, length, group, size) -> (rows x key heads, length x group, size)."""
    return x.flatten(2, 3).flatten(0, 1)


def _split(x: Tensor, rows: int, group: int) -> Tensor:
    """The way back of `_matrices`."""
    parts: Tensor = x.unflatten(1, (-1, group)).unflatten(0, (rows, -1))
    return parts


def _ungrouped(x: Tensor, rows: int, group: int) -> Tensor:
    """The way back of `_grouped` and `_matrices`."""
    return _split(x, rows, group).transpose(1, 2).flatten(2, 3)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x cos + (x with its halves exchanged) sin."""
    x = x.contiguous()
    return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)


def _blocks(
    length: int, total: int, group: int, dtype: torch.dtype
) -> Iterator[tuple[slice, int, Tensor]]:
    """(rows of queries, how many keys they see, the mask), block by block."""
    before = total - length
    for begin in range(0, length, _BLOCK):
        end = min(length, begin + _BLOCK)
        width = before + end + -(before + end) % _LANES
        mask = _mask(before + begin, before + end, width, group, dtype)
        yield slice(begin * group, end * group), width, mask


@lru_cache(64)
def _mask(begin: int, end: int, width: int, group: int, dtype: torch.dtype) -> Tensor:
    """What positions from begin to end see of the first `width`: 0, else -inf; `group` rows each."""
    unseen = torch.full((end - begin, width), -torch.inf, dtype=dtype)
    return unseen.triu_(begin + 1).repeat_interleave(group, 0)


# torch does not say what they take.
_norm_of: Any = _Norm.apply
_attend: Any = _Attend.apply

_KINDS: list[tuple[Callable[..., bool], Callable[..., Any], Callable[..., dict[str, Any]]]] = [
    (_is_norm, _norm, _norm_input),
    (_is_attention, _attention, _attention_input),
]
