"""A Llama-like network, written for serving: one function from a batch to what comes next.

It serves every model whose layers are built the same way, whatever its name: RMS norm, rotary
positions, grouped-query attention with or without biases and query/key norms, a SwiGLU block, a
tied or free head. `read` takes the weights out of the model transformers has loaded and lets both
compute the same tokens; a model that is different in any way does not agree and is left to
`generate.py`.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.initialization import no_init_weights

from cl.model.engine.adapters import PARTS, Adapter, load_adapter
from cl.model.engine.batch import Batch, Feed
from cl.model.engine.cache import Cache
from cl.model.engine.ops import Linear, TorchOps
from cl.model.versions import BadVersion

_STEADY_POSITIONS = {"default", "linear", "llama3", "yarn"}  # kinds that do not change on the way


DAMAGED = "The base model computes values that are not finite: its weights are damaged."


class NotLlamaLike(ValueError):
    """The model is built differently; the text says how."""


@dataclass
class Layer:
    qkv: Linear
    o: Linear
    gate_up: Linear
    down: Linear
    input_norm: Tensor
    middle_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None


class Network:
    """The weights, and `ops` to compute with them."""

    def __init__(self, model: Any, ops: TorchOps, *, context: int) -> None:
        config, first = model.config, model.model.layers[0].self_attn
        self.dtype: torch.dtype = model.dtype
        self.device: torch.device = model.device
        self.head: int = first.head_dim
        self.q_heads = first.q_proj.out_features // self.head
        self.k_heads = first.k_proj.out_features // self.head
        self.scaling: float = first.scaling
        self.eps: float = model.model.norm.variance_epsilon
        self.context = min(context, config.max_position_embeddings, _window(config))
        self.ops = ops
        self.layers = [_layer(layer, ops) for layer in model.model.layers]
        self._sizes = _sizes(model.model.layers[0])
        # A copy: the original keeps the whole file of weights in memory.
        self._embedding: Tensor = model.model.embed_tokens.weight.detach().clone()
        self._norm = _norm(model.model.norm)
        self._head = _linear([model.lm_head], ops, exact=True)
        self._rotary = model.model.rotary_emb
        self._cos = self._sin = torch.empty(0, self.head, dtype=torch.float32, device=self.device)

    def new_cache(self, slots: int) -> Cache:
        return Cache(
            len(self.layers),
            self.k_heads,
            self.ops.layout(self.head),
            slots=slots,
            context=self.context,
            dtype=self.dtype,
            device=self.device,
        )

    def load_adapter(self, folder: Path) -> Adapter:
        """Raises BadVersion when it does not fit."""
        return load_adapter(folder, len(self.layers), self._sizes, self._embedding[:0], self.ops)

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: Cache, adapters: dict[str, Adapter]) -> Tensor:
        """One step. Returns (feeds that want it, vocabulary): float32 logits of the next token."""
        cache.reserve(batch.longest)
        self._turn(batch)
        ops, used = (
            self.ops,
            [(g, adapters[g.version]) for g in batch.groups if g.version in adapters],
        )

        def apply(weights: Linear, part: str, x: Tensor) -> Tensor:
            y = weights(x)
            for group, adapter in used:
                if (found := adapter.layers[number].get(part)) is not None:
                    found(x[group.begin : group.end], y[group.begin : group.end])
            return y

        hidden = functional.embedding(batch.tokens, self._embedding).float()
        delta = None
        for number, layer in enumerate(self.layers):
            x = ops.add_norm(hidden, delta, layer.input_norm, self.eps)
            qkv = apply(layer.qkv, "qkv", x)
            ops.rotate_and_store(qkv, number, batch, cache, self)
            delta = apply(layer.o, "o", ops.attend(qkv, number, batch, cache, self))
            x = ops.add_norm(hidden, delta, layer.middle_norm, self.eps)
            delta = apply(layer.down, "down", ops.gate(apply(layer.gate_up, "gate_up", x)))
        if not batch.wanted:
            return hidden.new_empty(0, len(self._embedding))
        assert delta is not None
        last = ops.add_norm(hidden[batch.wanted], delta[batch.wanted], self._norm, self.eps)
        return self._head(last).float()

    def _turn(self, batch: Batch) -> None:
        """Give the batch the cosines and sines of its positions: (T, head size)."""
        if batch.longest > len(self._cos):
            length = min(self.context, 2 ** math.ceil(math.log2(max(batch.longest, 256))))
            positions = torch.arange(length, device=self.device)[None]
            like = torch.empty(0, dtype=torch.float32, device=self.device)
            cos, sin = self._rotary(like, positions)
            self._cos, self._sin = cos[0].contiguous(), sin[0].contiguous()
        batch.cos, batch.sin = self._cos[batch.positions], self._sin[batch.positions]


def read(model: Any, ops: TorchOps, *, context: int) -> Network:
    """The network of a model that transformers has loaded. Raises NotLlamaLike when they disagree."""
    try:
        _refuse_other_arithmetic(model)
        network = Network(model, ops, context=context)
        # transformers itself, in bf16 and in float32, is up to 0.08 apart on such tokens.
        _refuse_disagreement(model, network, 1e-3 if model.dtype == torch.float32 else 0.25)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as problem:
        if isinstance(problem, BadVersion | NotLlamaLike):
            raise
        raise NotLlamaLike(f"it is put together differently ({problem})") from None
    return network


def _refuse_other_arithmetic(model: Any) -> None:
    """Its first layers in float32, where rounding hides nothing: factors, layers without positions."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = min(4, config.num_hidden_layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    config.dtype = torch.float32
    with no_init_weights():  # they are replaced at once
        few = type(model)(config).to(model.device).eval()
    weights = model.state_dict()
    few.load_state_dict({name: weights[name].float() for name in few.state_dict()})
    network = Network(few, TorchOps(torch.float32), context=64)
    _refuse_disagreement(few, network, 1e-3)


def refuse_other_builds(model: Any) -> None:
    """Raises NotLlamaLike, with what is different, for a model whose parts are not those above."""
    inner: Any = getattr(model, "model", None)
    if not hasattr(inner, "layers") or not hasattr(inner, "rotary_emb"):
        raise NotLlamaLike("it is not a stack of layers with rotary positions")
    kind = getattr(inner.rotary_emb, "rope_type", "default")
    more = getattr(model.config, "rope_parameters", None) or {}
    if str(kind) not in _STEADY_POSITIONS or "llama_4_scaling_beta" in more:
        raise NotLlamaLike(f"its rotary positions are of the kind {kind}")
    if 0 in (getattr(model.config, "no_rope_layers", None) or ()):
        raise NotLlamaLike("some of its layers have no positions")
    if getattr(model.config, "hidden_act", None) != "silu":
        raise NotLlamaLike("its activation is another one")
    for layer in inner.layers:
        for part, needed, allowed in (
            (layer, {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}, set()),
            (getattr(layer, "self_attn", None), {"q_proj", "k_proj", "v_proj", "o_proj"}, {"q_norm", "k_norm"}),
            (getattr(layer, "mlp", None), {"gate_proj", "up_proj", "down_proj"}, {"act_fn"}),
        ):  # fmt: skip
            names = {name for name, _ in part.named_children()} if part is not None else set()
            if not needed <= names <= needed | allowed:
                raise NotLlamaLike(f"its layers are built of {', '.join(sorted(names))}")


def _refuse_disagreement(model: Any, network: Network, tolerance: float) -> None:
    """Both compute the same made-up tokens; how far apart they are, in units of how logits vary."""
    dice = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (1, min(24, network.context)), generator=dice)
    with torch.inference_mode():
        theirs = model(input_ids=tokens.to(model.device), use_cache=False).logits[0, -1].float()
    batch = Batch([Feed(0, "", tokens[0].tolist(), 0, True)], network.device)
    ours = network.forward(batch, network.new_cache(1), {})[0]
    if not bool(torch.isfinite(theirs).all()):
        raise BadVersion(DAMAGED)
    apart = float((ours - theirs).abs().mean() / theirs.std())
    if not apart < tolerance:
        raise NotLlamaLike(f"its logits come out {apart:.2g} standard deviations apart")


def _window(config: Any) -> int:
    """A sliding window is not computed: conversations stay shorter than it instead."""
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    return int(window) if window and "sliding_attention" in kinds else 1 << 30


def _layer(layer: Any, ops: TorchOps) -> Layer:
    attention, block = layer.self_attn, layer.mlp
    return Layer(
        qkv=_linear([attention.q_proj, attention.k_proj, attention.v_proj], ops),
        o=_linear([attention.o_proj], ops),
        gate_up=_linear([block.gate_proj, block.up_proj], ops),
        down=_linear([block.down_proj], ops),
        input_norm=_norm(layer.input_layernorm),
        middle_norm=_norm(layer.post_attention_layernorm),
        q_norm=_norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
        k_norm=_norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
    )


def _linear(modules: Sequence[Any], ops: TorchOps, *, exact: bool = False) -> Linear:
    """The modules' outputs side by side, as one product."""
    weight = torch.cat([m.weight.detach() for m in modules])
    biases = [m.bias.detach() for m in modules if m.bias is not None]
    return ops.linear(weight, torch.cat(biases) if biases else None, exact=exact)


def _sizes(layer: Any) -> dict[str, tuple[int, int]]:
    modules = {**dict(layer.self_attn.named_children()), **dict(layer.mlp.named_children())}
    names = [name for part in PARTS.values() for name in part]
    return {name: (modules[name].out_features, modules[name].in_features) for name in names}


def _norm(module: Any) -> Tensor:
    weight: Tensor = module.weight.detach().float().contiguous()
    return weight
