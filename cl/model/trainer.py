"""The trainer: a child process that turns a training set into an adapter.

    python -m cl.model.trainer JOB.json

The adapter (LoRA, Hu et al. 2021, arXiv 2106.09685, in peft's format) is always trained from the
untouched base model on the whole set, never on top of another adapter. What is learned how is told
in `training/learner.py`, in what order in `training/plan.py`. Epoch by epoch it goes on until the
loss on held-out answers is clearly worse than it was; the weights from before that are kept. A little
worse is not clearly: with a handful of short answers that is chance, and the last epoch, whose rate
falls to nothing, is the one that settles what was learned.

Beside the job file it writes progress.json, losses.jsonl, the folder candidate/ and, last,
result.json; and every few seconds checkpoint.pt, from which the same job goes on after a crash with
the same result. On several GPUs or machines: `torchrun` or `accelerate launch` with the same line.
"""

import dataclasses
import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoTokenizer

from cl import files
from cl.model.engine.loading import load_model
from cl.model.training import checkpoints, child
from cl.model.training.child import Job, Reporter, TrainingProblem
from cl.model.training.learner import Learner
from cl.model.training.plan import Step, paced, plan
from cl.model.training.rewording import Rewording
from cl.model.training.rows import Judged, Row, RowReader, fair_to_all, preferences
from cl.model.training.synonyms import Synonyms
from cl.model.training.wordings import Wordings
from cl.model.training.workers import Workers
from cl.model.versions import ADAPTER, write_manifest
from cl.records import TrainingResult

CHECKPOINT = "checkpoint.pt"
_SPREAD = 0.3  # of an answer's loss, nats a token: a mean of n answers is as sure as 0.3 / sqrt(n)
_EXPLODED = 3.0  # nats a token above where it began
_MEMORY = 0.9  # of the running mean of the loss
# Options that do not decide what is learned.
_PACE = frozenset(
    {
        "train_memory_gb",
        "train_launcher",
        "checkpoint_seconds",
        "max_stall_minutes",
        "max_train_minutes",
    }
)


@dataclass
class _Way:
    """How far the training is; all of it goes into a checkpoint."""

    step: int = 0
    epochs: int = 0
    tokens: int = 0
    seconds: float = 0.0
    lowest: float = math.inf  # loss on what is held out, of any epoch
    kept: tuple[float, float] = (math.inf, 0.0)  # (loss, drift) of the weights that are kept
    kept_weights: dict[str, Any] = field(default_factory=dict)
    first_loss: float = math.nan
    mean_loss: float = math.nan
    is_over: bool = False


class Training:
    """One training from job to candidate."""

    def __init__(self, job: Job, report: Reporter, workers: Workers | None = None) -> None:
        self._job = job
        self._report = report
        self._workers = workers or Workers()
        self._way = _Way()
        self._began = time.monotonic()
        self._saved_at = time.monotonic()
        self._saved_step = 0

    def run(self) -> TrainingResult | None:
        """Train and write the candidate; only the first of several processes has a result."""
        options = self._job.options
        torch.set_num_threads(child.threads(options))
        self._report.tell("loading the base model")
        reader = self._reader()
        rows, held_out, judged = self._read(reader)
        learner = Learner(load_model(self._job.base), options, self._job.seed, self._workers)
        self._report.tell("measuring what the base model knows")
        words = Synonyms(learner.word_vectors, reader.tokenizer)
        rewording = Rewording(reader, Wordings(words.replace), options.rephrasings)
        steps = plan(rows, judged, paced(options, rows), self._job.seed, rewording)
        # Which words are near each other is computed: another kind of processor may round otherwise.
        self._workers.agree(checkpoints.digest([[r.ids for r in step.rows] for step in steps]))
        rehearsal = {row.number: row for step in steps for row in step.rows if row.is_rehearsal}
        learner.remember_base(
            [*rehearsal.values(), *(r for r in held_out if r.is_rehearsal)], judged
        )
        base_loss, _ = learner.evaluate(held_out)
        self._way.first_loss = base_loss
        self._learn(learner, steps, held_out)
        if not self._workers.is_first:
            self._workers.wait()
            return None
        self._report.tell("writing the version", self._way.step, self._way.step)
        loss, drift = self._way.kept
        result = TrainingResult(
            val_loss=loss,
            val_examples=sum(not row.is_rehearsal for row in held_out),
            base_val_loss=base_loss,
            drift=drift if math.isfinite(drift) else 0.0,
            steps=self._way.step,
            epochs=self._way.epochs,
            tokens=self._way.tokens,
            seconds=self._seconds(),
            methods=_methods(judged),
        )
        save(learner, self._job, result)
        self._workers.wait()
        return result

    def _reader(self) -> RowReader:
        folder = self._job.base.folder
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return RowReader(tokenizer, self._job.options.max_example_tokens)

    def _read(self, reader: RowReader) -> tuple[list[Row], list[Row], list[Judged]]:
        job, options = self._job, self._job.options
        rows = reader.examples(job.data / "train.jsonl")
        held_out = reader.examples(job.data / "val.jsonl")
        for found in (rows, held_out):
            if all(row.is_rehearsal for row in found):
                raise TrainingProblem("there is nothing to learn from, or nothing to validate on")
        votes = reader.votes(job.data / "votes.jsonl", "train")
        # A correction is taught; to prefer it to the answer it corrected besides would cost a third.
        corrected = {row.group for row in rows if row.lesson and row.lesson.is_correction}
        found_pairs = reader.pairs(job.data / "pairs.jsonl", "train")
        pairs = [pair for pair in found_pairs if pair.rows[0].group not in corrected]
        return rows, fair_to_all(held_out, job.parent_name), preferences(votes, pairs, options)

    def _learn(self, learner: Learner, steps: Sequence[Step], held_out: Sequence[Row]) -> None:
        """Until validation gets clearly worse, or all steps are made; the weights kept are set."""
        self._way.kept_weights = learner.adapter.state()
        self._take_up(learner)
        for step in steps[self._way.step :]:
            if self._way.is_over:
                break
            self._one_step(learner, step, len(steps))
            if step.ends_epoch:
                self._end_epoch(learner, held_out)
            self._save_if_due(learner)
        learner.adapter.restore(self._way.kept_weights)

    def _one_step(self, learner: Learner, step: Step, of: int) -> None:
        way = self._way
        taught, kept = learner.step(step)
        way.step += 1
        way.tokens += sum(len(row.ids) for row in step.rows)
        self._refuse_explosion(taught)
        self._report.loss(step=way.step, train=taught, kl=kept)
        passed = self._seconds()
        self._report.tell(
            "training",
            way.step,
            of,
            tokens_per_s=way.tokens / passed,
            seconds_left=passed / way.step * (of - way.step),
            loss=way.mean_loss,
            saved=self._saved_step,
        )

    def _refuse_explosion(self, loss: float) -> None:
        if not math.isfinite(loss):
            return  # a batch of rehearsal texts only
        way = self._way
        if math.isnan(way.mean_loss):
            # Batches hold texts of like length, the first one perhaps all the easy ones.
            way.first_loss, way.mean_loss = max(way.first_loss, loss), loss
        way.mean_loss = _MEMORY * way.mean_loss + (1 - _MEMORY) * loss
        if way.mean_loss > way.first_loss + _EXPLODED:
            raise TrainingProblem(
                f"the loss exploded: it began at {way.first_loss:.2f} nats a token and is at "
                f"{way.mean_loss:.2f} after {way.step} steps"
            )

    def _end_epoch(self, learner: Learner, held_out: Sequence[Row]) -> None:
        way = self._way
        way.epochs += 1
        seen = learner.evaluate(held_out)
        if not math.isfinite(seen[0]):
            raise TrainingProblem("the loss is no longer a finite number")
        self._report.loss(step=way.step, val=seen[0], drift=seen[1])
        answers = sum(not row.is_rehearsal for row in held_out)
        if seen[0] < way.lowest + _SPREAD / math.sqrt(answers):
            way.kept, way.kept_weights = seen, learner.adapter.state()
            way.lowest = min(way.lowest, seen[0])
        else:
            way.is_over = True

    # -- going on after a crash --------------------------------------------------------------

    def _take_up(self, learner: Learner) -> None:
        state = checkpoints.load(self._job.folder / CHECKPOINT, self._digest())
        if state is not None:
            self._way = _Way(**state["way"])
            learner.adapter.restore(state["weights"])
            learner.optimizer.load_state_dict(state["optimizer"])
            self._saved_step = self._way.step
            self._began = time.monotonic() - self._way.seconds
        self._report.back_to(self._way.step)

    def _save_if_due(self, learner: Learner) -> None:
        if time.monotonic() - self._saved_at < self._job.options.checkpoint_seconds:
            return
        if self._workers.is_first:
            self._way.seconds = self._seconds()
            state = {
                "belongs_to": self._digest(),
                "way": vars(self._way),
                "weights": learner.adapter.state(),
                "optimizer": learner.optimizer.state_dict(),
            }
            checkpoints.save(self._job.folder / CHECKPOINT, state)
        self._saved_at, self._saved_step = time.monotonic(), self._way.step

    def _digest(self) -> str:
        """Of all that decides what is learned; not of how fast, or of where the files lie."""
        job = self._job
        sums = [files.sha256(path) for path in sorted(job.data.glob("*.jsonl"))]
        kept = {name: value for name, value in vars(job.options).items() if name not in _PACE}
        fields = list(vars(_Way()))  # another release may count otherwise
        return checkpoints.digest(
            job.base.sha256, job.parent_name, job.seed, kept, sums, self._workers.size, fields
        )

    def _seconds(self) -> float:
        return max(1e-9, time.monotonic() - self._began)


def _methods(judged: Sequence[Judged]) -> tuple[str, ...]:
    """What was learned by, in the field's words."""
    kto = any(not one.is_pair for one in judged)
    dpo = any(one.is_pair for one in judged)
    return ("sft", *(["kto"] if kto else []), *(["dpo"] if dpo else []))


def save(learner: Learner, job: Job, result: TrainingResult) -> None:
    """The adapter in peft's format with its manifest, whole or not at all."""
    # An earlier attempt may have got this far before the app was killed.
    shutil.rmtree(job.candidate, ignore_errors=True)
    with files.new_folder(job.candidate) as folder:
        learner.adapter.save(folder, job.base.source)
        write_manifest(
            folder,
            base=job.base.source,
            base_sha256=job.base.sha256,
            options=dataclasses.asdict(job.options),
            seed=job.seed,
            result=dataclasses.asdict(result),
        )
    if not (job.candidate / ADAPTER).is_file():
        raise TrainingProblem("the adapter was not written")


def _work(job: Job) -> Mapping[str, Any] | None:
    workers = Workers.joined()
    result = Training(job, Reporter(job.folder, workers.is_first), workers).run()
    # Not after a failure: its reason has to be written down before the others notice.
    workers.leave()
    return dataclasses.asdict(result) if result else None


if __name__ == "__main__":
    sys.exit(child.run(sys.argv[1:], "result.json", _work))
