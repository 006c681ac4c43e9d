"""An adapter that learns: low-rank updates on every linear layer of a frozen model (LoRA, Hu 2021).

y = W x + s B A x. Both products stay apart, as they do in serving: W + s B A rounded to bf16 would
swallow small updates, and for a few hundred tokens adding them up costs more than it saves. Forward
and backward are written out, so that the frozen W takes part in two large products and everything
of the adapter is four products as thin as its rank. A and B are kept in float32 and rounded anew
for each product: nothing can be stale.

Folders are written and read in peft's format; peft itself is not needed.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from cl import files
from cl.model.versions import ADAPTER, CONFIG, BadVersion

_PREFIX = "base_model.model."
# What peft can do beyond B A x.
_MORE = (
    "lora_bias",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)


class LowRank(nn.Module):
    """A linear layer of any model with an update of its own, in its place and under its name."""

    def __init__(self, layer: Any, rank: int, scale: float, switch: "_Switch") -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self._is_turned = not isinstance(layer, nn.Linear)  # Conv1D has its weights as (in, out)
        self.out_features, self.in_features = self.matrix.shape
        like = {"dtype": torch.float32, "device": layer.weight.device}
        self.lora_A = nn.Parameter(torch.zeros(rank, self.in_features, **like))
        self.lora_B = nn.Parameter(torch.zeros(self.out_features, rank, **like))
        self._scale = scale
        self._switch = switch

    @property
    def matrix(self) -> Tensor:
        """The frozen weights, (out, in)."""
        weight: Tensor = self.weight
        return weight.T if self._is_turned else weight

    def forward(self, x: Tensor) -> Any:
        if not self._switch.is_on:
            return functional.linear(x, self.matrix, self.bias)
        return _product(x, self.matrix, self.bias, self.lora_A, self.lora_B, self._scale)

    def update_ratio(self) -> float:
        """||s B A|| / ||W||, Frobenius: ||B A||^2 is the sum of (B^T B) * (A A^T)."""
        a, b = self.lora_A.detach(), self.lora_B.detach()
        update = ((b.T @ b) * (a @ a.T)).sum().clamp(min=0).sqrt() * self._scale
        return float(update / torch.linalg.vector_norm(self.matrix, dtype=torch.float32))


class _Switch:
    is_on = True


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        down, up = a.to(x.dtype), (b * scale).to(x.dtype)
        inner = rows @ down.T
        y = functional.linear(rows, weight, bias).addmm_(inner, up.T)
        ctx.save_for_backward(rows, weight, down, up, inner)
        ctx.scale = scale
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, y_grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, down, up, inner = ctx.saved_tensors
        y_rows = y_grad.reshape(-1, y_grad.shape[-1])
        inner_grad = y_rows @ up
        x_grad = None
        if ctx.needs_input_grad[0]:  # not in the first layer
            x_grad = (y_rows @ weight).addmm_(inner_grad, down).view(*y_grad.shape[:-1], -1)
        a_grad = (inner_grad.T @ rows).float()
        b_grad = (y_rows.T @ inner).float().mul_(ctx.scale)
        return x_grad, None, None, a_grad, b_grad, None


_product: Any = _Product.apply  # torch does not say what it takes


class Adapter:
    """The updates of all linear layers of one model but its head."""

    def __init__(self, layers: Mapping[str, LowRank], targets: list[str], scale: float) -> None:
        self._layers = layers
        self._targets = targets
        self._scale = scale
        self._switch = next(iter(layers.values()))._switch

    @staticmethod
    def attach(model: Any, rank: int, alpha: float, seed: int) -> "Adapter":
        """Freeze the model and put an update that does nothing yet on each of its linear layers."""
        from transformers.pytorch_utils import Conv1D

        model.requires_grad_(False)
        head, switch, layers = model.get_output_embeddings(), _Switch(), {}
        modules = dict(model.named_modules())
        for path, module in modules.items():
            if isinstance(module, nn.Linear | Conv1D) and module is not head:
                parent, _, name = path.rpartition(".")
                layers[path] = LowRank(module, rank, alpha / rank, switch)
                setattr(modules[parent], name, layers[path])
        if not layers:
            raise ValueError("the model has no linear layers")
        _draw(layers, seed)
        return Adapter(layers, _targets(modules, layers), alpha / rank)

    def parameters(self) -> list[Tensor]:
        """A and B of each layer in turn."""
        return [p for layer in self._layers.values() for p in (layer.lora_A, layer.lora_B)]

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within it the model computes what it did before it had an adapter."""
        was_on, self._switch.is_on = self._switch.is_on, False
        try:
            yield
        finally:
            self._switch.is_on = was_on

    def state(self) -> dict[str, Tensor]:
        """A copy of all weights under peft's names."""
        return {name: tensor.detach().clone() for name, tensor in self._named()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Set the weights, of whatever rank, that `state` gave."""
        for name, parameter in self._named():
            parameter.data = state[name].to(parameter, copy=True)

    def save(self, folder: Path, base_name: str) -> None:
        """adapter_config.json and adapter_model.safetensors; same weights, same bytes."""
        rank = len(next(iter(self._layers.values())).lora_A)
        alpha = self._scale * rank
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(
            folder / CONFIG,
            {
                "base_model_name_or_path": base_name,
                "bias": "none",
                "fan_in_fan_out": next(iter(self._layers.values()))._is_turned,
                "inference_mode": True,
                "init_lora_weights": True,
                "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
                "lora_dropout": 0.0,
                "modules_to_save": None,
                "peft_type": "LORA",
                "r": rank,
                "target_modules": self._targets,
                "task_type": "CAUSAL_LM",
                "use_dora": False,
                "use_rslora": False,
            },
        )
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.state().items()}
        save_file(tensors, folder / ADAPTER, metadata={"format": "pt"})

    def load(self, folder: Path) -> None:
        """The weights of a folder in peft's format, of any rank. Raises BadVersion if it does not fit.

        The scale of this adapter stays: another one goes into B. Layers that the folder does not
        know get an update of zero.
        """
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            _refuse_more_than_low_rank(config)
            state = self._fitted(load_file(folder / ADAPTER), config)
        except (SafetensorError, LookupError, OSError, TypeError, ValueError) as problem:
            raise BadVersion(f"{folder} does not fit the base model: {problem}") from None
        self.restore(state)

    def update_ratio(self) -> float:
        """The largest ||s B A|| / ||W|| of all layers: how far the model was moved."""
        return max(layer.update_ratio() for layer in self._layers.values())

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        for path, layer in self._layers.items():
            yield f"{_PREFIX}{path}.lora_A.weight", layer.lora_A
            yield f"{_PREFIX}{path}.lora_B.weight", layer.lora_B

    def _fitted(
        self, tensors: dict[str, Tensor], config: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        rank, state = max(1, *(min(tensor.shape) for tensor in tensors.values())), {}
        for path, layer in self._layers.items():
            into, out = layer.in_features, layer.out_features
            a_name, b_name = (f"{_PREFIX}{path}.lora_{part}.weight" for part in "AB")
            a = tensors.pop(a_name, torch.zeros(rank, into)).float()
            b = tensors.pop(b_name, torch.zeros(out, len(a))).float()
            if a.shape != (len(a), into) or b.shape != (out, len(a)):
                raise ValueError(f"{path} is of another size")
            state[a_name], state[b_name] = a, b * (_scale(config, path, len(a)) / self._scale)
        if tensors:
            raise ValueError(f"it has {min(tensors)}")
        return state


def _draw(layers: Mapping[str, LowRank], seed: int) -> None:
    """A as peft draws it (Kaiming, uniform, a = sqrt(5)); B stays zero."""
    dice = torch.Generator().manual_seed(seed)
    for layer in layers.values():
        bound = 1 / math.sqrt(layer.in_features)
        drawn = torch.empty(layer.lora_A.shape).uniform_(-bound, bound, generator=dice)
        layer.lora_A.data.copy_(drawn)


def _targets(modules: Mapping[str, Any], layers: Mapping[str, LowRank]) -> list[str]:
    """The last names of the layers, as peft wants them; whole paths where others share a name."""
    others = {path.rpartition(".")[2] for path in modules if path not in layers}
    names = {path.rpartition(".")[2] for path in layers}
    return sorted(layers) if names & others else sorted(names)


def _refuse_more_than_low_rank(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise ValueError("it is more than low-rank updates")
    if found := [name for name in _MORE if config.get(name)]:
        raise ValueError(f"it uses {found[0]}")


def _scale(config: Mapping[str, Any], path: str, rank: int) -> float:
    """As peft has it: the first pattern that fits the end of the layer's path counts."""
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            alpha = value
            break
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))
