"""Drawing tokens: greedy, by temperature, and from the nucleus of the likeliest ones."""

import random
from collections import Counter

import pytest
import torch
from torch import Tensor
from transformers import TopPLogitsWarper

from cl.model.engine.sampling import draw
from cl.records import Sampling

VOCABULARY = 49_152  # of the default model


class Chances(random.Random):
    """Dice that fall as they are told: one number for each draw."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.chance = chance

    def random(self) -> float:
        return self.chance


def drawn(logits: Tensor, chance: float, **wish: float) -> int:
    wanted = Sampling(1, **{"temperature": 1.0, **wish})  # type: ignore[arg-type]
    return draw(logits[None], [wanted], [Chances(chance)])[0]


def possible(logits: Tensor, **wish: float) -> set[int]:
    """Every token that some fall of the dice gives. For small vocabularies without rare tokens."""
    chances = [i / 300 for i in range(300)] + [1 - 1e-16]
    wanted = Sampling(1, **{"temperature": 1.0, **wish})  # type: ignore[arg-type]
    rows = logits.expand(len(chances), -1)
    return set(draw(rows, [wanted] * len(chances), [Chances(chance) for chance in chances]))


def nucleus(logits: Tensor, top_p: float) -> set[int]:
    """By its definition, in float64: the likeliest tokens until they make up `top_p`."""
    chances, order = torch.softmax(logits.double(), -1).sort(descending=True, stable=True)
    before = chances.cumsum(0) - chances
    return set(order[before < top_p].tolist()) | {int(order[0])}


def wide_logits(seed: int, size: int, spread: float = 3.0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * spread


# -- which tokens ------------------------------------------------------------------------------


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_just_the_tokens_of_the_nucleus_can_be_drawn(seed: int, top_p: float) -> None:
    logits = wide_logits(seed, 12, spread=0.7)
    assert possible(logits, top_p=top_p) == nucleus(logits, top_p)


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("spread", [0.5, 3.0])
@pytest.mark.parametrize("size", [400, VOCABULARY])
def test_transformers_allows_the_same_tokens(size: int, spread: float, top_p: float) -> None:
    """All fall of the dice between the first and the last allowed token, in order of likelihood.

    Where the sum reaches top_p, float32 rounds in the one order or the other: up to three tokens of
    a flat tail of thousands may differ there.
    """
    logits = wide_logits(size, size, spread)
    warped = TopPLogitsWarper(top_p)(None, logits[None].clone())[0]
    allowed = warped.isfinite()
    order = logits.argsort(descending=True, stable=True).tolist()
    last = order.index(drawn(logits, 1 - 1e-16, top_p=top_p))
    assert drawn(logits, 0.0, top_p=top_p) == order[0]
    assert abs(last + 1 - int(allowed.sum())) <= (0 if last < 100 else 3)
    mine = set(order[: last + 1])
    theirs = set(allowed.nonzero()[:, 0].tolist())
    assert mine <= theirs or theirs <= mine


@pytest.mark.parametrize("top_p", [1e-6, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("size", [1, 7, VOCABULARY])
def test_of_flat_logits_the_share_top_p_can_be_drawn(size: int, top_p: float) -> None:
    tokens = {drawn(torch.zeros(size), i / 20, top_p=top_p) for i in range(20)}
    assert len(tokens) <= top_p * size + 1
    assert len(tokens) >= min(20, int(top_p * size))


@pytest.mark.parametrize("top_p", [0.01, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.01, 1.0, 2.0])
def test_one_huge_logit_is_always_drawn(temperature: float, top_p: float) -> None:
    logits = wide_logits(0, VOCABULARY)
    logits[77] = 3e4
    for chance in (0.0, 0.5, 1 - 1e-16):
        assert drawn(logits, chance, temperature=temperature, top_p=top_p) == 77


def test_a_token_without_any_chance_is_never_drawn() -> None:
    logits = torch.full((50,), -1e9)
    logits[[10, 20]] = 1.0
    assert possible(logits) == {10, 20}
    assert possible(logits, top_p=0.9) == {10, 20}


def test_a_temperature_close_to_zero_takes_the_likeliest_token() -> None:
    logits = wide_logits(5, VOCABULARY)
    for chance in (0.0, 0.3, 1 - 1e-16):
        assert drawn(logits, chance, temperature=1e-6) == int(logits.argmax())


# -- how often ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.5, 0.8), (1.0, 0.6)])
def test_tokens_come_as_often_as_their_probability_says(temperature: float, top_p: float) -> None:
    logits, count = wide_logits(9, 9, spread=1.0), 4000
    dice = random.Random(3)
    wish = Sampling(1, temperature=temperature, top_p=top_p)
    tokens = Counter(
        token
        for _ in range(count // 100)
        for token in draw(logits.expand(100, -1), [wish] * 100, [dice] * 100)
    )
    inside = sorted(nucleus(logits / temperature, top_p))
    chances = torch.softmax(logits[inside].double() / temperature, -1)
    assert set(tokens) <= set(inside)
    apart = sum(
        (tokens[i] - count * chance) ** 2 / (count * chance)
        for i, chance in zip(inside, chances.tolist(), strict=True)
    )
    assert apart < 26  # chi-square with at most 8 degrees of freedom: once in a thousand


def test_the_dice_decide_in_proportion_and_in_order() -> None:
    """Of two tokens with 1/4 and 3/4 the likelier one takes the first three quarters."""
    logits = torch.tensor([0.25, 0.75]).log()
    assert [drawn(logits, c, top_p=0.99) for c in (0.0, 0.74, 0.76, 0.99)] == [1, 1, 0, 0]
    assert [drawn(logits, c) for c in (0.0, 0.24, 0.26, 0.99)] == [0, 0, 1, 1]


# -- many rows ---------------------------------------------------------------------------------


def test_each_row_is_drawn_as_it_is_alone() -> None:
    """Greedy rows beside drawn ones, each with dice, temperature and top_p of its own."""
    logits = torch.stack([wide_logits(i, 400) for i in range(6)])
    wishes = [
        Sampling(1),
        Sampling(1, temperature=1.0, seed=1),
        Sampling(1, temperature=2.0, top_p=0.5, seed=2),
        Sampling(1),
        Sampling(1, temperature=0.3, top_p=0.9, seed=3),
        Sampling(1, temperature=1.0, seed=1),
    ]

    def dice() -> list[random.Random]:
        return [random.Random(wish.seed) for wish in wishes]

    together = draw(logits, wishes, dice())
    alone = [draw(logits[i, None], [wishes[i]], [dice()[i]])[0] for i in range(6)]
    assert together == alone
    assert [together[0], together[3]] == logits.argmax(-1)[[0, 3]].tolist()


def test_a_drawn_row_takes_one_number_from_its_dice() -> None:
    """So that an answer with a seed does not depend on how many tokens were considered."""
    dice, other = random.Random(1), random.Random(1)
    draw(torch.randn(1, 10), [Sampling(1, temperature=1.0, top_p=0.5)], [dice])
    other.random()
    assert dice.random() == other.random()


def test_the_same_seed_draws_the_same_tokens() -> None:
    logits = wide_logits(1, 400)

    def answer(seed: int) -> list[int]:
        dice = random.Random(seed)
        return [draw(logits[None], [Sampling(1, temperature=1.5)], [dice])[0] for _ in range(20)]

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)
