"""A base model with one adapter on it: its losses, and one step of learning.

On what people taught, the loss is cross-entropy of the answer. On rehearsal texts it is
KL(base || new) over the whole vocabulary: the model may learn, but stays like itself elsewhere
(Li & Hoiem 2016, arXiv 1606.09282). Likes and dislikes add a term that moves likelihoods from the
base model's: for single answers that of KTO (Ethayarajh et al. 2024, arXiv 2402.01306) with a
reference point of zero, which is APO-zero unpaired (D'Oosterlinck et al. 2024, arXiv 2408.06266);
for pairs that of DPO (Rafailov et al. 2023, arXiv 2305.18290).

B learns a few times faster than A (LoRA+, Hayou et al. 2024, arXiv 2402.12354).

Several processes may learn together: each takes its share of a batch, and the gradients are added
up, which gives the step one process would have made.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, logsigmoid

from cl.model.training.child import TrainingProblem
from cl.model.training.fast_layers import NotShared, Shared, speed_up
from cl.model.training.head import cross_entropy_sum, kl_sum
from cl.model.training.lora import Adapter
from cl.model.training.plan import Step, batches
from cl.model.training.rows import Judged, Row
from cl.model.training.workers import Workers
from cl.settings import TrainingOptions

_CLIP = 1.0
_SAME = 0.05  # of the length of hidden states


@dataclass(frozen=True)
class Losses:
    """Sums of one batch and the answer tokens they are over; in nats."""

    taught: Tensor
    taught_tokens: int
    kept: Tensor
    kept_tokens: int


class Learner:
    def __init__(
        self, model: Any, options: TrainingOptions, seed: int, workers: Workers | None = None
    ) -> None:
        self._model = model
        speed_up(model)
        self.adapter = Adapter.attach(model, options.lora_rank, options.lora_alpha, seed)
        self._options = options
        self._workers = workers or Workers()
        self._split = self._head_is_plain()
        self._longest = _positions(model.config)
        self._shares = self._split and self._can_share()
        head = model.get_output_embeddings()
        is_bare = self._split and getattr(head, "bias", None) is None
        self._head: Tensor | None = head.weight if is_bare else None
        self._targets: dict[int, Tensor] = {}  # hidden states, or scores, by row
        self._references: dict[int, float] = {}  # log-likelihoods under the base model, by row
        parameters = self.adapter.parameters()
        groups = [
            {"params": parameters[0::2], "pace": 1.0},
            {"params": parameters[1::2], "pace": options.lora_plus},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=options.learning_rate, weight_decay=0.0, fused=True
        )

    @property
    def word_vectors(self) -> Tensor:
        """The base model's input embeddings, (vocabulary, size)."""
        return self._model.get_input_embeddings().weight  # type: ignore[no-any-return]

    # -- the base model's own view -----------------------------------------------------------

    def remember_base(self, rows: Sequence[Row], judged: Sequence[Judged] = ()) -> None:
        """Keep what the base model makes of the rehearsal rows and of judged answers."""
        with torch.no_grad(), self.adapter.off():
            for batch in self._batches(rows):
                ids, mask = self._tensors(batch)
                states = self._states(ids)
                for index, row in enumerate(batch):
                    self._targets[row.number] = states[index][mask[index]].clone()
        self._references |= self.likelihoods([row for one in judged for row in one.rows], base=True)

    def likelihoods(self, rows: Sequence[Row], *, base: bool = False) -> dict[int, float]:
        """Log-likelihood of each answer in nats, by the row's number."""
        found: dict[int, float] = {}
        with torch.no_grad():
            for batch in self._batches(rows):
                if base:
                    with self.adapter.off():
                        said = self._log_likelihoods(batch)
                else:
                    said = self._log_likelihoods(batch)
                found |= {r.number: v for r, v in zip(batch, said.tolist(), strict=True)}
        return found

    # -- learning ----------------------------------------------------------------------------

    def step(self, step: Step) -> tuple[float, float]:
        """One update. Returns (cross-entropy, KL), each in nats a token; nan where there is none."""
        for group in self.optimizer.param_groups:
            group["lr"] = step.rate * group.get("pace", 1.0)
        tokens = sum(row.answer_tokens for row in step.rows)
        found = self._losses(self._workers.share(step.rows))
        loss = (found.taught + self._options.rehearsal_weight * found.kept) / tokens
        if loss.requires_grad:
            loss.backward()
        self._learn_preferences(step.judged)
        sums = torch.stack([found.taught.detach(), found.kept.detach()]).float()
        self._workers.add_up([sums, *self._gradients()])
        if not torch.isfinite(sums).all():
            raise TrainingProblem("the loss is no longer a finite number")
        torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), _CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        taught = sum(row.answer_tokens for row in step.rows if not row.is_rehearsal)
        return _mean(sums[0].item(), taught), _mean(sums[1].item(), tokens - taught)

    def _learn_preferences(self, judged: Sequence[Judged]) -> None:
        """Add the gradient of the preference term, a few answers at a time."""
        # Not by the weights of these: alone in a step, a like and a dislike would weigh the same.
        for some in self._portions(self._workers.share(judged)):
            said = self._log_likelihoods([row for one in some for row in one.rows])
            losses, at = [], 0
            for one in some:
                gains = [
                    said[at + i] - self._references[row.number] for i, row in enumerate(one.rows)
                ]
                losses.append(one.weight * self._preference(one, gains))
                at += len(one.rows)
            (self._options.preference_weight * torch.stack(losses).sum() / len(judged)).backward()

    def _preference(self, one: Judged, gains: Sequence[Tensor]) -> Tensor:
        beta = self._options.preference_beta
        if one.is_pair:
            return -logsigmoid(beta * (gains[0] - gains[1]))
        return torch.sigmoid(beta * (-gains[0] if one.liked else gains[0]))

    def _gradients(self) -> list[Tensor]:
        for parameter in self.adapter.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [p.grad for p in self.adapter.parameters() if p.grad is not None]

    # -- measuring ---------------------------------------------------------------------------

    def evaluate(self, rows: Sequence[Row]) -> tuple[float, float]:
        """(cross-entropy on taught rows, KL on rehearsal rows), each in nats a token."""
        device = self._model.device  # what adds up over GPUs takes nothing else
        sums, tokens = torch.zeros(2, device=device), torch.zeros(2, device=device)
        with torch.no_grad():
            for batch in self._batches(self._workers.share(rows)):
                found = self._losses(batch)
                sums += torch.stack([found.taught, found.kept])
                tokens += torch.tensor([found.taught_tokens, found.kept_tokens], device=device)
        self._workers.add_up([sums, tokens])
        taught, kept = (
            _mean(s, int(n)) for s, n in zip(sums.tolist(), tokens.tolist(), strict=True)
        )
        return taught, kept

    def drifts(self, rows: Sequence[Row]) -> list[float]:
        """KL(base || new) of each rehearsal row that was remembered, in nats a token."""
        with torch.no_grad():
            found = [(self._losses([row]), row) for row in rows]
        return [_mean(losses.kept.item(), losses.kept_tokens) for losses, _ in found]

    def load(self, folder: Path) -> None:
        """Take the weights of another adapter in place of one's own."""
        self.adapter.load(folder)

    # -- inside ------------------------------------------------------------------------------

    def _losses(self, batch: Sequence[Row]) -> Losses:
        device = self._model.device
        taught_loss = kept_loss = torch.zeros((), device=device)
        taught_tokens = kept_tokens = 0
        if batch:
            ids, mask = self._tensors(batch)
            rehearsal = torch.tensor([row.is_rehearsal for row in batch], device=device)
            states = self._states(ids)
            taught, kept = mask & ~rehearsal[:, None], mask & rehearsal[:, None]
            taught_tokens, kept_tokens = int(taught.sum()), int(kept.sum())
            if taught_tokens:
                taught_loss = self._surprise(states[taught], ids[:, 1:][taught])
            if kept_tokens:
                kept_loss = self._distance(states[kept], [r for r in batch if r.is_rehearsal])
        return Losses(taught_loss, taught_tokens, kept_loss, kept_tokens)

    def _surprise(self, states: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, summed over positions."""
        if self._head is not None:
            return cross_entropy_sum(states, self._head, targets)
        return cross_entropy(self._scores(states), targets, reduction="sum")

    def _distance(self, states: Tensor, rows: Sequence[Row]) -> Tensor:
        """KL(base || new), summed over the answer tokens of these rows."""
        base = torch.cat([self._targets[row.number] for row in rows])
        if self._head is not None:
            return kl_sum(states, base, self._head)
        with torch.no_grad():
            wanted = log_softmax(self._scores(base), -1)
        found = log_softmax(self._scores(states), -1)
        return kl_div(found, wanted, log_target=True, reduction="sum")

    def _log_likelihoods(self, batch: Sequence[Row]) -> Tensor:
        """Of each row's answer, (rows,), in nats."""
        ids, mask = self._tensors(batch)
        rows = zip(self._states(ids), ids[:, 1:], mask, strict=True)
        return torch.stack([-self._surprise(states[m], wanted[m]) for states, wanted, m in rows])

    def _tensors(self, batch: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """ids (rows, length), and a mask (rows, length - 1) of the positions that predict an answer.

        Padding is at the right: a causal model never looks there, so it needs no attention mask.
        """
        length = max(len(row.ids) for row in batch)
        ids = torch.zeros((len(batch), length), dtype=torch.long)
        mask = torch.zeros((len(batch), length - 1), dtype=torch.bool)
        for index, row in enumerate(batch):
            ids[index, : len(row.ids)] = torch.tensor(row.ids)
            mask[index, row.answer_from - 1 : len(row.ids) - 1] = True
        return ids.to(self._model.device), mask.to(self._model.device)

    def _states(self, ids: Tensor) -> Tensor:
        """What `_scores` makes scores of, (rows, length - 1, size): hidden states, or scores already."""
        if not self._split:
            return self._model(input_ids=ids, use_cache=False).logits[:, :-1]  # type: ignore[no-any-return]
        return self._hidden(ids, self._common(ids) if self._shares else 0)[:, :-1]

    def _hidden(self, ids: Tensor, prefix: int) -> Tensor:
        """Hidden states (rows, length, size); the first `prefix` tokens of all rows are the same."""
        if not prefix:
            return self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state  # type: ignore[no-any-return]
        rows = len(ids)
        packed = torch.cat([ids[0, :prefix], ids[:, prefix:].flatten()])[None]
        shared = Shared(prefix, rows)
        found = self._model.base_model(input_ids=packed, use_cache=False, shared=shared)
        first, rest = found.last_hidden_state[0].tensor_split([prefix])
        return torch.cat([first.expand(rows, -1, -1), rest.unflatten(0, (rows, -1))], 1)

    def _common(self, ids: Tensor) -> int:
        """How many tokens at the beginning of all rows are the same and worth computing once."""
        rows, length = ids.shape
        prefix = min(length - 1, int((ids == ids[0]).all(0).cumprod(0).sum()))
        fits = prefix + rows * (length - prefix) <= self._longest
        return prefix if rows > 1 and fits else 0

    def _can_share(self) -> bool:
        """Whether rows may share a beginning: tried, since only some layers know how."""
        ids = torch.arange(1, 19, device=self._model.device).view(2, 9)
        ids[1, :4] = ids[0, :4]
        with torch.no_grad():
            wanted = self._hidden(ids, 0).float()
            try:
                found = self._hidden(ids, 4).float()
            except (NotShared, TypeError):
                return False
        # Rounding in bf16 stays below a hundredth; rows that see each other are whole numbers apart.
        return bool((found - wanted).norm() < _SAME * wanted.norm())

    def _scores(self, states: Tensor) -> Tensor:
        if not self._split:
            return states.float()
        return self._model.get_output_embeddings()(states).float()  # type: ignore[no-any-return]

    def _head_is_plain(self) -> bool:
        """Whether scores are just the output layer of the last hidden state.

        Then the widest layer runs on answer tokens only, and the base model's view of a rehearsal
        text is kept as hidden states, a hundred times smaller than scores.
        """
        ids = torch.arange(1, 9, device=self._model.device)[None]
        with torch.no_grad():
            wanted = self._model(input_ids=ids, use_cache=False).logits
            states = self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            # To the last bit: a cap on scores bends small ones by less than bf16 can tell apart.
            found = self._model.get_output_embeddings()(states)
            return torch.equal(found.float(), wanted.float())

    def _batches(self, rows: Sequence[Row]) -> list[list[Row]]:
        return batches(rows, self._options.batch_tokens, random.Random(0))

    def _portions(self, judged: Sequence[Judged]) -> Iterator[list[Judged]]:
        """As many at once as make a batch; a pair stays together."""
        some: list[Judged] = []
        longest = count = 0
        for one in judged:
            length, size = max(len(row.ids) for row in one.rows), len(one.rows)
            if some and max(longest, length) * (count + size) > self._options.batch_tokens:
                yield some
                some, longest, count = [], 0, 0
            some.append(one)
            longest, count = max(longest, length), count + size
        if some:
            yield some


def _mean(total: float, count: int) -> float:
    return total / count if count else math.nan


def _positions(config: Any) -> int:
    """Up to what length positions are told apart as they are in short texts."""
    limits = [
        getattr(config, "max_position_embeddings", None),
        getattr(config, "sliding_window", None),
    ]
    limits.append(
        (getattr(config, "rope_parameters", None) or {}).get("original_max_position_embeddings")
    )
    return min((limit for limit in limits if limit), default=0)
