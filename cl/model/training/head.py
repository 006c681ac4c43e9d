"""The two losses of training, straight from hidden states: no logits are ever kept.

The head is frozen and is the widest layer, so the gradient of its input is computed at once in the
forward pass, some positions at a time, while their logits are there.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_ROWS = 256  # positions at a time: fewer read the head's weights too often
_FEW = 8  # whose scores stay in the processor's cache while they are worked on

# (log-probabilities, first row, the base model's) -> (loss, its gradient by the scores); may
# overwrite its input.
_Loss = Callable[[Tensor, int, Tensor | None], tuple[Tensor, Tensor]]


def cross_entropy_sum(states: Tensor, head_weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log p(target) over positions: states (n, size), head (vocabulary, size), targets (n)."""

    def loss(logs: Tensor, first: int, _: Tensor | None) -> tuple[Tensor, Tensor]:
        wanted = targets[first : first + len(logs), None]
        total = -logs.gather(1, wanted).sum()
        return total, logs.exp_().scatter_add_(1, wanted, logs.new_full(wanted.shape, -1.0))

    return _summed(states, head_weight, loss)


def kl_sum(states: Tensor, base_states: Tensor, head_weight: Tensor) -> Tensor:
    """Sum of KL(base || new) over positions, each over the whole vocabulary; base_states is given."""

    def loss(logs: Tensor, _: int, wanted: Tensor | None) -> tuple[Tensor, Tensor]:
        assert wanted is not None
        likely = wanted.exp()
        total = wanted.sub_(logs).mul_(likely).sum()
        return total, logs.exp_().sub_(likely)

    return _summed(states, head_weight, loss, base_states)


def _summed(
    states: Tensor, head_weight: Tensor, loss: _Loss, base_states: Tensor | None = None
) -> Tensor:
    apply: Any = _Summed.apply  # torch does not say what it takes
    total: Tensor = apply(states, head_weight, loss, base_states)
    return total


def _log_probabilities(scores: Tensor) -> Tensor:
    # Made float32 first: log_softmax(dtype=float32) of bf16 takes seven times as long.
    return torch.log_softmax(scores.float(), -1)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, head_weight: Tensor, loss: _Loss, base_states: Tensor | None
    ) -> Tensor:
        wants_grad = ctx.needs_input_grad[0]
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        grad = torch.empty_like(states) if wants_grad else None
        for first in range(0, len(states), _ROWS):
            rows = slice(first, first + _ROWS)
            scores = functional.linear(states[rows], head_weight)
            base = (
                functional.linear(base_states[rows], head_weight)
                if base_states is not None
                else None
            )
            for few in range(0, len(scores), _FEW):
                some = slice(few, few + _FEW)
                wanted = None if base is None else _log_probabilities(base[some])
                part, by_scores = loss(_log_probabilities(scores[some]), first + few, wanted)
                total += part
                scores[some] = by_scores  # from here on they hold their gradient
            if grad is not None:
                grad[rows] = scores @ head_weight
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, total_grad: Tensor) -> tuple[Tensor | None, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * total_grad, None, None, None
