"""Drawing the next token of each row, as its request wants it."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from cl.records import Sampling


def draw(logits: Tensor, wishes: Sequence[Sampling], dice: Sequence[random.Random]) -> list[int]:
    """One token for each row of `logits` (rows, vocabulary); `dice` is each row's own."""
    tokens: list[int] = logits.argmax(-1).tolist()
    drawn = [i for i, wish in enumerate(wishes) if wish.temperature > 0]
    if drawn:
        heat = logits.new_tensor([[wishes[i].temperature] for i in drawn])
        probabilities = torch.softmax(logits[drawn] / heat, -1)
        for row, i in zip(probabilities, drawn, strict=True):
            tokens[i] = _nucleus(row, wishes[i].top_p, dice[i].random())
    return tokens


def _nucleus(probabilities: Tensor, top_p: float, chance: float) -> int:
    """Draw among the likeliest tokens that make up `top_p` (Holtzman et al. 2020, 1904.09751).

    Sorting a whole vocabulary takes longer than a step. Tokens below (1 - top_p) / V add up to less
    than 1 - top_p, so none of them can be among those.
    """
    tokens = None
    if top_p < 1:
        tokens = (probabilities >= (1 - top_p) / len(probabilities)).nonzero()[:, 0]
        probabilities, order = probabilities[tokens].sort(descending=True)
        inside = probabilities.cumsum(0) - probabilities < top_p
        inside[0] = True
        probabilities, tokens = probabilities[inside], tokens[order[inside]]
    sums = probabilities.double().cumsum(0)
    found = int(torch.searchsorted(sums, chance * float(sums[-1]), right=True))
    found = min(found, len(sums) - 1)
    return found if tokens is None else int(tokens[found])
