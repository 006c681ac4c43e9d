"""Adapters as data: low-rank updates, added for the tokens of a version (LoRA, Hu et al. 2021).

No version has weights of its own. y = W x is computed for all rows together, and the rows of a
version get its B A x on top: any number of versions answer in one batch, and none is merged.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cl.model.engine.ops import LowRank, TorchOps
from cl.model.versions import ADAPTER, BadVersion

# Which of a layer's matrices are multiplied as one, in the order of their outputs.
PARTS = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "o": ("o_proj",),
    "gate_up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
_KEY = re.compile(r"base_model\.model\.model\.layers\.(\d+)\.(\w+)\.(\w+)\.lora_([AB])\.weight")
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
# What peft can do beyond B A x: https://huggingface.co/docs/peft/package_reference/lora
_UNSERVED = (
    "alora_invocation_tokens",
    "arrow_config",
    "fan_in_fan_out",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)


_WRONG_SHAPE = (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Adapter:
    layers: Sequence[Mapping[str, LowRank]]  # by the names of PARTS; what is not adapted is missing


def load_adapter(
    folder: Path, layers: int, sizes: Mapping[str, tuple[int, int]], like: Tensor, ops: TorchOps
) -> Adapter:
    """An adapter folder in peft's format. `sizes`: (out, in) of each projection of a layer.

    It computes in the dtype and on the device of `like`. Raises BadVersion when the adapter does
    not fit the model or wants more than low-rank updates of these projections.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        _refuse_more_than_low_rank(config)
        weights = _read(load_file(folder / ADAPTER), layers, sizes)
        return Adapter(
            [_layer(number, weights, sizes, config, like, ops) for number in range(layers)]
        )
    except (SafetensorError, *_WRONG_SHAPE) as problem:
        raise BadVersion(f"{folder} does not fit the base model: {problem}") from None


def _refuse_more_than_low_rank(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise ValueError(f"it is of the kind {config.get('peft_type')}, only LORA is served")
    if config.get("bias", "none") != "none":
        raise ValueError("it changes biases, which is not served")
    if found := [name for name in _UNSERVED if config.get(name)]:
        raise ValueError(f"it uses {found[0]}, which is not served")


def _read(
    tensors: Mapping[str, Tensor], layers: int, sizes: Mapping[str, tuple[int, int]]
) -> dict[tuple[int, str], dict[str, Tensor]]:
    """(layer, projection) -> A and B."""
    weights: dict[tuple[int, str], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or match[3] not in sizes or int(match[1]) >= layers or tensor.dim() != 2:
            raise ValueError(f"it has {key}")
        weights.setdefault((int(match[1]), match[3]), {})[match[4]] = tensor.float()
    return weights


def _layer(
    number: int,
    weights: Mapping[tuple[int, str], Mapping[str, Tensor]],
    sizes: Mapping[str, tuple[int, int]],
    config: Mapping[str, Any],
    like: Tensor,
    ops: TorchOps,
) -> dict[str, LowRank]:
    layer: dict[str, LowRank] = {}
    for part, names in PARTS.items():
        here = {name: weights[number, name] for name in names if (number, name) in weights}
        if not here:
            continue
        rank = max(len(pair["A"]) for pair in here.values())
        downs, ups = [], []
        for name in names:
            out, into = sizes[name]
            down, up = (torch.zeros(rank, size, dtype=torch.float32) for size in (into, out))
            if name in here:
                a, b = here[name]["A"], here[name]["B"]
                if a.shape[1] != into or b.shape != (out, len(a)):
                    raise ValueError(f"{name} of layer {number} is of another size")
                down[: len(a)], up[: len(a)] = a, b.T * _scale(config, number, name, len(a))
            downs.append(down)
            ups.append(up)
        ends = list(accumulate(up.shape[1] for up in ups))
        layer[part] = ops.low_rank(torch.cat(downs).to(like), torch.cat(ups, 1).to(like), ends)
    return layer


def _scale(config: Mapping[str, Any], number: int, name: str, rank: int) -> float:
    """As peft has it: the first pattern that fits the end of the projection's path counts."""
    path = f"model.layers.{number}.{'self_attn' if name in _ATTENTION else 'mlp'}.{name}"
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            alpha = value
            break
    scale = float(alpha / (rank**0.5 if config.get("use_rslora") else rank))
    if not math.isfinite(scale):
        raise ValueError(f"its lora_alpha is {alpha}")
    return scale
