"""In what order a training set is learned.

The order is a function of the rows, the options and the seed alone: a training that was broken off
goes on as if it had not been. Each epoch takes all that people taught, corrected questions in new
wordings, too, and the next stretch of the rehearsal buffer, as long as `rehearsal_ratio` says, so
that a large buffer costs no more than a small one. A small set rehearses more: the first steps bend
a model most, whatever there is to learn.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cl.model.training.rewording import Rewording
from cl.model.training.rows import Judged, Row
from cl.records import IMPORTED
from cl.settings import TrainingOptions

_WARM_UP = 0.05  # of all steps
_FEWEST = 120  # rehearsal rows an epoch


@dataclass(frozen=True)
class Step:
    """One update: what to learn, how fast, and whether it is the last one of its epoch."""

    rows: tuple[Row, ...]
    judged: tuple[Judged, ...]
    rate: float
    ends_epoch: bool


def batches(rows: Sequence[Row], budget: int, dice: random.Random) -> list[list[Row]]:
    """Rows of like length together, at most `budget` padded tokens a batch, in random order."""
    made: list[list[Row]] = []
    current: list[Row] = []
    for row in sorted(rows, key=lambda r: (len(r.ids), dice.random())):
        if current and len(row.ids) * (len(current) + 1) > budget:
            made.append(current)
            current = []
        current.append(row)
    if current:
        made.append(current)
    dice.shuffle(made)
    return made


def epoch_rows(
    rows: Sequence[Row], epoch: int, seed: int, ratio: float, rewording: Rewording | None = None
) -> list[Row]:
    """All taught rows, and the next stretch of the rehearsal rows: `ratio` times as many, or a few."""
    dice = random.Random(f"{seed}:{epoch}:wordings")
    taught = [row for row in rows if not row.is_rehearsal]
    rehearsal = [row for row in rows if row.is_rehearsal]
    random.Random(seed).shuffle(rehearsal)
    if rewording is not None:
        taught += rewording.taught(taught, dice)
    count = min(len(rehearsal), max(round(len(taught) * ratio), _FEWEST if ratio else 0))
    stretch = [rehearsal[(epoch * count + i) % len(rehearsal)] for i in range(count)]
    return taught + (stretch if rewording is None else rewording.rehearsed(stretch, dice))


def paced(options: TrainingOptions, rows: Sequence[Row]) -> TrainingOptions:
    """The options for this set. Where all that is taught are its own words, it learns gently.

    Towards answers it has given itself the model needs no more than a nudge, and what goes beyond
    makes it repeat itself, as `tests/bench/thumbs.py` measures. People's words are new to it.
    """
    if any(row.author in ("", IMPORTED) for row in rows if not row.is_rehearsal):
        return options
    rate, epochs = options.thumbs_learning_rate, options.thumbs_max_epochs
    return replace(options, learning_rate=rate, max_epochs=epochs)


def plan(
    rows: Sequence[Row],
    judged: Sequence[Judged],
    options: TrainingOptions,
    seed: int,
    rewording: Rewording | None = None,
) -> list[Step]:
    """All steps of a training. The rate warms up over a twentieth of them, then falls to zero."""
    steps: list[tuple[list[Row], Sequence[Judged], bool]] = []
    for epoch in range(options.max_epochs):
        dice = random.Random(f"{seed}:{epoch}")
        made = batches(
            epoch_rows(rows, epoch, seed, options.rehearsal_ratio, rewording),
            options.batch_tokens,
            dice,
        )
        shuffled = dice.sample(list(judged), len(judged))
        for index, batch in enumerate(made):
            portion = shuffled[index :: len(made)]
            steps.append((batch, portion, index == len(made) - 1))
    total = len(steps)
    return [
        Step(
            tuple(batch),
            tuple(portion),
            options.learning_rate
            * min(1.0, (n + 1) / max(1.0, _WARM_UP * total))
            * (1.0 - n / total),
            ends_epoch,
        )
        for n, (batch, portion, ends_epoch) in enumerate(steps)
    ]
