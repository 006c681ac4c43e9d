"""The losses from hidden states are those of torch, value and gradient, in any number of pieces."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cl.model.training import head
from cl.model.training.head import cross_entropy_sum, kl_sum

pytestmark = pytest.mark.slow  # as everything that imports torch

SIZE, VOCABULARY = 16, 50


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


WEIGHT, BASE = drawn(VOCABULARY, SIZE, seed=0), drawn(23, SIZE, seed=1)
TARGETS = drawn(23, VOCABULARY, seed=2).argmax(1)


def plain_cross_entropy(states: Tensor) -> Tensor:
    return functional.cross_entropy(states @ WEIGHT.T, TARGETS, reduction="sum")


def plain_kl(states: Tensor) -> Tensor:
    found, wanted = (functional.log_softmax(x @ WEIGHT.T, -1) for x in (states, BASE))
    return functional.kl_div(found, wanted, log_target=True, reduction="sum")


@pytest.mark.parametrize("rows", [4, 23, 100])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda states: cross_entropy_sum(states, WEIGHT, TARGETS), plain_cross_entropy),
        (lambda states: kl_sum(states, BASE, WEIGHT), plain_kl),
    ],
    ids=["cross-entropy", "KL"],
)
def test_value_and_gradient_are_those_of_the_plain_loss(
    ours: Callable[[Tensor], Tensor],
    theirs: Callable[[Tensor], Tensor],
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(head, "_ROWS", rows)
    found, wanted = (drawn(23, SIZE, seed=3).requires_grad_() for _ in range(2))
    losses = ours(found), theirs(wanted)
    assert torch.allclose(*losses, rtol=1e-4)
    for loss in losses:
        (0.3 * loss).backward()
    assert found.grad is not None
    assert wanted.grad is not None
    assert (found.grad - wanted.grad).norm() < 1e-4 * wanted.grad.norm()
    with torch.no_grad():
        assert torch.equal(ours(found), losses[0])


def test_the_same_states_diverge_by_nothing_and_no_states_cost_nothing() -> None:
    assert float(kl_sum(BASE, BASE, WEIGHT)) == 0.0
    assert float(cross_entropy_sum(BASE[:0], WEIGHT, TARGETS[:0])) == 0.0


def test_a_hopeless_target_has_a_finite_loss_of_the_right_size() -> None:
    states = torch.zeros(1, SIZE)
    states[0, 0] = 1.0
    weight = torch.zeros(VOCABULARY, SIZE)
    weight[7, 0] = 300.0
    assert float(cross_entropy_sum(states, weight, torch.tensor([3]))) == pytest.approx(300.0)


def test_bf16_states_give_a_float32_loss() -> None:
    states, weight = BASE.bfloat16().requires_grad_(), WEIGHT.bfloat16()
    loss = cross_entropy_sum(states, weight, TARGETS)
    loss.backward()
    exact = BASE.bfloat16().float().requires_grad_()
    wanted = cross_entropy_sum(exact, weight.float(), TARGETS)
    wanted.backward()
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=0.01)
    assert states.grad is not None
    assert exact.grad is not None
    assert (states.grad.float() - exact.grad).norm() < 0.02 * exact.grad.norm()
