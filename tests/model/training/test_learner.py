"""One step of learning, and what is measured, against the same thing written out in plain torch."""

import dataclasses
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from cl.model.base_model import BaseModel
from cl.model.training.child import TrainingProblem
from cl.model.training.learner import Learner
from cl.model.training.plan import Step
from cl.model.training.rows import Judged, Row
from cl.model.training.workers import Workers
from cl.settings import TrainingOptions
from tests.model.training.sets import OPTIONS

SCALE = OPTIONS.lora_alpha / OPTIONS.lora_rank
PREFIX = "base_model.model."
SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def plain(tiny: BaseModel) -> Any:
    """The base model as transformers has it, exact: in bf16 the company a row has rounds it."""
    model = AutoModelForCausalLM.from_pretrained(tiny.folder, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def learner_of(
    model: Any, workers: Workers | None = None, state: bool = False, **options: Any
) -> Learner:
    """With `state`, the adapter already does something."""
    made = Learner(model, dataclasses.replace(OPTIONS, **options), 7, workers)
    if state:
        made.adapter.restore(some_state(made))
    return made


def some_state(learner: Learner) -> dict[str, Tensor]:
    dice = torch.Generator().manual_seed(3)
    return {
        name: 0.1 * torch.randn(tensor.shape, generator=dice)
        for name, tensor in sorted(learner.adapter.state().items())
    }


def some_rows(lengths: Sequence[int], first: int = 1, rehearsal: bool = False) -> list[Row]:
    """Rows of any token ids; the answer is their second half."""
    dice = random.Random(first)
    return [
        Row(tuple(dice.choices(range(3, 400), k=length)), length // 2, rehearsal, first + i)
        for i, length in enumerate(lengths)
    ]


TAUGHT = some_rows([9, 14, 20])
KEPT = some_rows([12, 17], first=11, rehearsal=True)
BEGINNING = tuple(range(50, 60))
ALIKE = [
    dataclasses.replace(row, ids=BEGINNING + row.ids, answer_from=10 + row.answer_from)
    for row in (*TAUGHT, *KEPT)
]
ANSWERS = some_rows([8, 11, 15, 10, 13, 19], first=21)
LIKE, DISLIKE, PAIR = (
    Judged((ANSWERS[0],), True),
    Judged((ANSWERS[1],), False),
    Judged((ANSWERS[2], ANSWERS[3])),
)


# -- the same in plain torch -------------------------------------------------------------------


def logs(model: Any, row: Row, weights: dict[str, Tensor] | None = None) -> Tensor:
    """Log-probabilities at the positions that predict the row's answer."""
    ids = torch.tensor([row.ids])
    found = torch.func.functional_call(model, weights or {}, (ids,)).logits[0].float()
    return found[row.answer_from - 1 : -1].log_softmax(-1)


def likelihood(model: Any, row: Row, weights: dict[str, Tensor] | None = None) -> Tensor:
    answer = torch.tensor(row.ids[row.answer_from :])[:, None]
    return logs(model, row, weights).gather(1, answer).sum()


def distance(model: Any, row: Row, weights: dict[str, Tensor]) -> Tensor:
    base = logs(model, row).detach()
    return (base.exp() * (base - logs(model, row, weights))).sum()


def updated(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """W + s B A for each layer the adapter is on."""
    paths = {name.removeprefix(PREFIX).split(".lora_")[0] for name in state}
    return {
        f"{path}.weight": model.get_submodule(path).weight.detach()
        + SCALE * state[f"{PREFIX}{path}.lora_B.weight"] @ state[f"{PREFIX}{path}.lora_A.weight"]
        for path in paths
    }


def whole_loss(model: Any, weights: dict[str, Tensor], step: Step) -> Tensor:
    """Cross-entropy and KL by the token; KTO with z0 = 0 (1 - sigmoid(beta r) for what was liked,
    sigmoid(beta r) for what was not) and DPO by the judged answer."""
    beta, weight = OPTIONS.preference_beta, OPTIONS.preference_weight
    total = torch.zeros(())
    for row in step.rows:
        total = total + (
            distance(model, row, weights) * OPTIONS.rehearsal_weight
            if row.is_rehearsal
            else -likelihood(model, row, weights)
        )
    total = total / sum(row.answer_tokens for row in step.rows)
    for one in step.judged:
        gains = [
            likelihood(model, row, weights) - likelihood(model, row).detach() for row in one.rows
        ]
        if one.is_pair:
            loss = -logsigmoid(beta * (gains[0] - gains[1]))
        elif one.liked:
            loss = 1 - torch.sigmoid(beta * gains[0])
        else:
            loss = torch.sigmoid(beta * gains[0])
        total = total + weight * one.weight * loss / len(step.judged)
    return total


@pytest.mark.parametrize(
    ("rows", "judged"),
    [
        pytest.param(TAUGHT, (), id="taught"),
        pytest.param([*TAUGHT, *KEPT], (), id="rehearsal"),
        pytest.param(ALIKE, (), id="rows that begin alike"),
        pytest.param([*ALIKE, *TAUGHT], (), id="rows that do not all begin alike"),
        pytest.param(TAUGHT[:1], (LIKE,), id="liked"),
        pytest.param(TAUGHT[:1], (dataclasses.replace(DISLIKE, weight=8.0),), id="disliked"),
        pytest.param(TAUGHT[:1], (PAIR,), id="pair"),
        pytest.param([*TAUGHT, *KEPT], (LIKE, DISLIKE, PAIR), id="all"),
    ],
)
def test_a_step_follows_the_gradient_of_the_losses_written_out_in_plain_torch(
    tiny: BaseModel, rows: list[Row], judged: tuple[Judged, ...]
) -> None:
    learner, model = learner_of(plain(tiny), state=True), plain(tiny)
    learner.remember_base([row for row in rows if row.is_rehearsal], judged)
    learner.optimizer = torch.optim.SGD(learner.adapter.parameters())  # type: ignore[assignment]
    step = Step(tuple(rows), judged, 1.0, False)
    before = {name: t.requires_grad_() for name, t in learner.adapter.state().items()}
    whole_loss(model, updated(model, before), step).backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(before.values(), 1.0)
    learner.step(step)
    for name, after in learner.adapter.state().items():
        wanted = before[name].grad
        assert wanted is not None
        torch.testing.assert_close(before[name].detach() - after, wanted, rtol=2e-3, atol=2e-6)


def positions(learner: Learner, model: Any, rows: Sequence[Row]) -> int:
    """How many tokens the model reads to tell the loss of these rows."""
    seen = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _module, inputs, _output: seen.append(inputs[0].numel())
    )
    learner.evaluate(rows)
    hook.remove()
    return sum(seen)


def test_what_rows_have_in_common_at_their_beginning_is_computed_once(tiny: BaseModel) -> None:
    model = plain(tiny)
    learner = learner_of(model)
    alike = ALIKE[: len(TAUGHT)]
    padded = len(TAUGHT) * max(len(row.ids) for row in TAUGHT)
    assert positions(learner, model, TAUGHT) == padded
    assert positions(learner, model, alike) == padded + len(BEGINNING)
    assert positions(learner, model, alike[:1]) == len(alike[0].ids)


def unlike_llama() -> Any:
    return Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=None))


def other_names() -> Any:
    return PhiForCausalLM(PhiConfig(**SIZES))


def short() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SIZES, max_position_embeddings=40))


def sliding() -> Any:
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=12))


@pytest.mark.parametrize("make", [unlike_llama, other_names, short, sliding])
def test_a_model_that_would_mix_up_rows_that_begin_alike_gets_them_one_by_one(
    make: Callable[[], Any],
) -> None:
    torch.manual_seed(0)
    model, other = (make().eval().requires_grad_(False) for _ in range(2))
    other.load_state_dict(model.state_dict())
    learner = learner_of(model, state=True)
    alike = ALIKE[: len(TAUGHT)]
    weights = updated(other, learner.adapter.state())
    wanted = sum(float(-likelihood(other, row, weights)) for row in alike)
    tokens = sum(row.answer_tokens for row in alike)
    assert learner.evaluate(alike)[0] == pytest.approx(wanted / tokens, rel=1e-3)
    assert positions(learner, model, alike) == len(alike) * max(len(row.ids) for row in alike)


def test_a_step_tells_both_losses_of_before_it(tiny: BaseModel) -> None:
    learner = learner_of(plain(tiny), state=True)
    learner.remember_base(KEPT)
    for rows in (TAUGHT, KEPT, [*TAUGHT, *KEPT]):
        before = learner.evaluate(rows)
        assert learner.step(Step(tuple(rows), (), 0.01, False)) == pytest.approx(
            before, rel=1e-4, nan_ok=True
        )


def test_steps_make_liked_answers_likelier_disliked_ones_less_and_pairs_further_apart(
    tiny: BaseModel,
) -> None:
    learner = learner_of(plain(tiny), preference_weight=5.0)
    judged = (LIKE, DISLIKE, PAIR)
    rows = [row for one in judged for row in one.rows]
    learner.remember_base([], judged)
    before = learner.likelihoods(rows)
    for _ in range(20):
        learner.step(Step(tuple(TAUGHT), judged, 0.01, False))
    after, base = learner.likelihoods(rows), learner.likelihoods(rows, base=True)
    gains = {row.number: after[row.number] - before[row.number] for row in rows}
    liked, disliked, better, worse = (gains[row.number] for row in rows)
    assert liked > 1 > -1 > disliked
    assert better - worse > 1
    assert base == before  # what they are compared with does not move


def test_many_judged_answers_give_the_gradient_of_all_of_them_however_few_fit_at_once(
    tiny: BaseModel,
) -> None:
    judged = (LIKE, PAIR, DISLIKE, Judged((ANSWERS[4], ANSWERS[5])))
    states = []
    for budget in (16, 1000):
        learner = learner_of(plain(tiny), state=True, batch_tokens=budget)
        learner.remember_base([], judged)
        learner.step(Step(tuple(TAUGHT), judged, 0.01, False))
        states.append(learner.adapter.state())
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-3, atol=1e-4)


# -- measuring ---------------------------------------------------------------------------------


def test_likelihoods_are_those_of_the_updated_weights_and_of_the_untouched_model(
    tiny: BaseModel,
) -> None:
    learner, model = learner_of(plain(tiny), state=True, batch_tokens=40), plain(tiny)
    weights = updated(model, learner.adapter.state())
    found, base = learner.likelihoods(ANSWERS), learner.likelihoods(ANSWERS, base=True)
    for row in ANSWERS:
        new, old = likelihood(model, row, weights), likelihood(model, row)
        assert found[row.number] == pytest.approx(float(new), rel=1e-4)
        assert base[row.number] == pytest.approx(float(old), rel=1e-4)
        assert abs(new - old) > 0.01


def test_losses_and_drifts_are_means_over_tokens_of_the_updated_model(tiny: BaseModel) -> None:
    learner, model = learner_of(plain(tiny), state=True, batch_tokens=40), plain(tiny)
    learner.remember_base(KEPT)
    weights = updated(model, learner.adapter.state())
    taught, kept = learner.evaluate([*TAUGHT, *KEPT])
    lost = sum(float(-likelihood(model, row, weights)) for row in TAUGHT)
    assert taught == pytest.approx(lost / sum(row.answer_tokens for row in TAUGHT), rel=1e-4)
    far = [float(distance(model, row, weights)) for row in KEPT]
    assert kept == pytest.approx(sum(far) / sum(row.answer_tokens for row in KEPT), rel=1e-3)
    each = [d / row.answer_tokens for d, row in zip(far, KEPT, strict=True)]
    assert learner.drifts(KEPT) == pytest.approx(each, rel=1e-3)
    assert min(each) > 0.01


def test_an_update_that_does_nothing_has_no_drift(tiny: BaseModel) -> None:
    learner = learner_of(plain(tiny))
    learner.remember_base(KEPT)
    assert learner.drifts(KEPT) == pytest.approx([0.0, 0.0], abs=1e-6)
    assert learner.evaluate(KEPT)[1] == pytest.approx(0.0, abs=1e-6)
    assert learner.likelihoods(TAUGHT) == learner.likelihoods(TAUGHT, base=True)


def capped() -> Any:
    config = Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=3.0)
    return Gemma2ForCausalLM(config)


def scaled() -> Any:
    return CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.25))


def biased() -> Any:
    model = PhiForCausalLM(PhiConfig(**SIZES))
    torch.nn.init.normal_(model.lm_head.bias)
    return model


@pytest.mark.parametrize("make", [capped, scaled, biased])
def test_a_head_that_does_more_than_multiply_still_gives_the_right_losses(
    make: Callable[[], Any],
) -> None:
    torch.manual_seed(0)
    model, other = (make().eval().requires_grad_(False) for _ in range(2))
    other.load_state_dict(model.state_dict())
    learner = learner_of(model, state=True)
    learner.remember_base(KEPT, (LIKE,))
    weights = updated(other, learner.adapter.state())
    lost = sum(float(-likelihood(other, row, weights)) for row in TAUGHT)
    far = sum(float(distance(other, row, weights)) for row in KEPT)
    tokens = [sum(row.answer_tokens for row in rows) for rows in (TAUGHT, KEPT)]
    wanted = (lost / tokens[0], far / tokens[1])
    assert learner.evaluate([*TAUGHT, *KEPT]) == pytest.approx(wanted, rel=1e-3)
    assert far / tokens[1] > 0.01
    found = learner.likelihoods(ANSWERS)
    for row in ANSWERS:
        assert found[row.number] == pytest.approx(float(likelihood(other, row, weights)), rel=1e-3)
    learner.step(Step((*TAUGHT, *KEPT), (LIKE,), 0.01, False))
    assert learner.evaluate(TAUGHT)[0] < wanted[0]


def test_gradients_that_are_no_numbers_end_the_training(tiny: BaseModel) -> None:
    learner = learner_of(plain(tiny), state=True)
    learner.adapter.parameters()[0].data[0] = torch.nan
    with pytest.raises(TrainingProblem, match="no longer a finite number"):
        learner.step(Step(tuple(TAUGHT), (), 0.01, False))


# -- several processes -------------------------------------------------------------------------


class Threads(Workers):
    """Workers that are threads of one process: they meet at a barrier and add up in memory."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, desk: list[Any]) -> None:
        super().__init__(rank, size)
        self._barrier, self._desk = barrier, desk

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        self._desk[self.rank] = [t.clone() for t in tensors]
        self._barrier.wait(20)
        for i, tensor in enumerate(tensors):
            tensor.copy_(torch.stack([some[i] for some in self._desk]).sum(0))
        self._barrier.wait(20)


def learn_in_threads(tiny: BaseModel, size: int, options: TrainingOptions) -> list[Any]:
    """What each of `size` workers has after some steps: (adapter, losses, what was measured)."""
    barrier, desk, found = threading.Barrier(size), [None] * size, [None] * size
    models = [plain(tiny) for _ in range(size)]

    def work(rank: int) -> None:
        learner = Learner(models[rank], options, 7, Threads(rank, size, barrier, desk))
        judged = (LIKE, DISLIKE, PAIR)
        learner.remember_base(KEPT, judged)
        steps = [
            Step((*TAUGHT, *KEPT), judged, 0.01, False),
            Step((KEPT[0],), (), 0.01, False),  # nothing for the others to do
            Step((TAUGHT[0],), judged[:1], 0.01, False),
            Step((TAUGHT[1], KEPT[1]), judged[1:], 0.01, False),
        ]
        losses = [learner.step(step) for step in steps]
        found[rank] = (learner.adapter.state(), losses, learner.evaluate([*TAUGHT, *KEPT]))  # type: ignore[call-overload]

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_workers_that_share_a_step_take_the_step_one_of_them_would_take(tiny: BaseModel) -> None:
    ((alone, losses, measured),) = learn_in_threads(tiny, 1, OPTIONS)
    together = learn_in_threads(tiny, 3, OPTIONS)
    for state, their_losses, their_measured in together:
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, alone[name], rtol=1e-2, atol=2e-4)
        for theirs, ours in zip(their_losses, losses, strict=True):
            assert theirs == pytest.approx(ours, rel=1e-3, abs=1e-6, nan_ok=True)
        assert their_measured == pytest.approx(measured, rel=1e-3)
