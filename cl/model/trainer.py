"""The trainer: a child process that turns a training set into an adapter.

    python -m cl.model.trainer JOB.json

The adapter (LoRA, Hu et al. 2021, arXiv 2106.09685, in peft's format) is always trained from the
untouched base model on the whole set, never on top of another adapter. On what people taught, the
loss is cross-entropy of the answer. On rehearsal texts it is KL(base || new) over the whole
vocabulary: the model may learn, but stays like itself elsewhere (Li & Hoiem 2016, arXiv
1606.09282). Each epoch takes the next stretch of the rehearsal buffer, as long as
`rehearsal_ratio` says, so that a large buffer costs no more than a small one.

Validation leaves out answers that the parent wrote itself (they got a thumb up): it finds its own
words likelier than any other model can, however good, so nothing could ever beat it on them.

Beside the job file it writes progress.json, losses.jsonl, the folder candidate/ and, last,
result.json. It ends when its standard input closes: a trainer never outlives the app.
"""

import dataclasses
import json
import math
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl import files
from cl.model.base_model import BaseModel
from cl.model.engine.conversation import encode_chat, plain_ids
from cl.model.versions import ADAPTER, write_manifest
from cl.records import BASE, TrainingResult
from cl.settings import TrainingOptions, quiet_libraries

EXIT_DONE, EXIT_FAILED, EXIT_CANCELLED = 0, 1, 75


class TrainingProblem(RuntimeError):
    """The training cannot go on; the text says why."""


@dataclass(frozen=True)
class Row:
    """One example as token ids; `answer_from` is where the answer begins."""

    ids: tuple[int, ...]
    answer_from: int
    is_rehearsal: bool
    number: int
    author: str = ""  # the version that wrote the answer; empty where a person did


@dataclass(frozen=True)
class Job:
    """What to train, as the app wrote it into the job file."""

    base: BaseModel
    data: Path
    parent: Path | None
    options: TrainingOptions
    seed: int
    folder: Path

    @staticmethod
    def read(path: Path) -> "Job":
        job = json.loads(path.read_text(encoding="utf-8"))
        return Job(
            base=BaseModel(
                job["base"]["source"], Path(job["base"]["folder"]), job["base"]["sha256"]
            ),
            data=Path(job["data"]),
            parent=Path(job["parent"]) if job["parent"] else None,
            options=TrainingOptions(**job["options"]),
            seed=job["seed"],
            folder=path.parent,
        )


class Reporter:
    """Tells how far the training is: a file replaced at each step, and a line per loss."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._losses = folder / "losses.jsonl"
        self._losses.unlink(missing_ok=True)

    def tell(self, stage: str, step: int = 0, steps: int = 0, **facts: float) -> None:
        files.write_json(
            self._folder / "progress.json", {"stage": stage, "step": step, "steps": steps, **facts}
        )

    def loss(self, **values: float) -> None:
        with self._losses.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


class Learner:
    """A base model with one adapter on it: its losses, and one step of learning."""

    def __init__(self, model: Any, options: TrainingOptions, seed: int) -> None:
        import torch
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(seed)
        config = LoraConfig(
            r=options.lora_rank,
            lora_alpha=options.lora_alpha,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        self.model = get_peft_model(model, config)
        self._options = options
        self._split = self._head_is_plain()
        self._targets: dict[int, Any] = {}
        self._weights = [p for p in self.model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._weights, lr=options.learning_rate, weight_decay=0.0
        )

    def remember_base(self, rows: Sequence[Row]) -> None:
        """Keep what the base model makes of the rehearsal rows, to be held to later."""
        import torch

        with torch.no_grad(), self.model.disable_adapter():
            for batch in batches(rows, self._options.batch_tokens, random.Random(0)):
                ids, mask, _ = self._tensors(batch)
                states = self._states(ids)
                for index, row in enumerate(batch):
                    self._targets[row.number] = states[index][mask[index]].clone()

    def step(self, batch: Sequence[Row], rate: float) -> tuple[float, float]:
        """One update. Returns (cross-entropy, KL), each in nats a token; nan where there is none."""
        import torch

        for group in self._optimizer.param_groups:
            group["lr"] = rate
        taught, kept, tokens = self._losses(batch)
        loss = (taught[0] + self._options.rehearsal_weight * kept[0]) / tokens
        if not math.isfinite(loss.item()):
            raise TrainingProblem("the loss is no longer a finite number")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return _mean(taught[0].item(), taught[1]), _mean(kept[0].item(), kept[1])

    def evaluate(self, rows: Sequence[Row]) -> tuple[float, float]:
        """(cross-entropy on taught rows, KL on rehearsal rows), each in nats a token."""
        import torch

        total = [0.0, 0.0]
        count = [0, 0]
        with torch.no_grad():
            for batch in batches(rows, self._options.batch_tokens, random.Random(0)):
                for kind, (loss, tokens) in enumerate(self._losses(batch)[:2]):
                    total[kind] += loss.item()
                    count[kind] += tokens
        return _mean(total[0], count[0]), _mean(total[1], count[1])

    def weights(self) -> dict[str, Any]:
        return {
            name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad
        }

    def restore(self, weights: dict[str, Any]) -> None:
        self.model.load_state_dict(weights, strict=False)

    def _losses(self, batch: Sequence[Row]) -> tuple[tuple[Any, int], tuple[Any, int], int]:
        """((cross-entropy sum, tokens), (KL sum, tokens), all tokens) of one batch."""
        import torch
        from torch.nn.functional import cross_entropy, kl_div, log_softmax

        ids, mask, rehearsal = self._tensors(batch)
        states = self._states(ids)
        taught, kept = mask & ~rehearsal[:, None], mask & rehearsal[:, None]
        taught_loss = kept_loss = torch.zeros(())
        if taught.any():
            taught_loss = cross_entropy(
                self._scores(states[taught]), ids[:, 1:][taught], reduction="sum"
            )
        if kept.any():
            with torch.no_grad():
                base = torch.cat([self._targets[row.number] for row in batch if row.is_rehearsal])
                wanted = log_softmax(self._scores(base), -1)
            found = log_softmax(self._scores(states[kept]), -1)
            kept_loss = kl_div(found, wanted, log_target=True, reduction="sum")
        return (taught_loss, int(taught.sum())), (kept_loss, int(kept.sum())), int(mask.sum())

    def _tensors(self, batch: Sequence[Row]) -> tuple[Any, Any, Any]:
        """ids (rows, length), and masks (rows, length - 1) of predicting positions and rows.

        Padding is at the right: a causal model never looks there, so it needs no attention mask.
        """
        import torch

        length = max(len(row.ids) for row in batch)
        ids = torch.zeros((len(batch), length), dtype=torch.long)
        mask = torch.zeros((len(batch), length - 1), dtype=torch.bool)
        for index, row in enumerate(batch):
            ids[index, : len(row.ids)] = torch.tensor(row.ids)
            mask[index, row.answer_from - 1 : len(row.ids) - 1] = True
        device = self.model.device
        return (
            ids.to(device),
            mask.to(device),
            torch.tensor([row.is_rehearsal for row in batch], device=device),
        )

    def _states(self, ids: Any) -> Any:
        """What `_scores` makes scores of, (rows, length - 1, size): hidden states, or scores already."""
        base: Any = self.model.get_base_model()
        if not self._split:
            return base(input_ids=ids, use_cache=False).logits[:, :-1]
        return base.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]

    def _scores(self, states: Any) -> Any:
        if not self._split:
            return states.float()
        base: Any = self.model.get_base_model()
        return base.get_output_embeddings()(states).float()

    def _head_is_plain(self) -> bool:
        """Whether scores are just the output layer of the last hidden state.

        Then the widest layer runs on answer tokens only, and the base model's view of a rehearsal
        text is kept as hidden states, a hundred times smaller than scores.
        """
        import torch

        ids = torch.tensor([[1, 2, 3]], device=self.model.device)
        self._split = True
        with torch.no_grad():
            plain = self._scores(self._states(ids))
            self._split = False
            return bool(
                torch.allclose(plain, self._scores(self._states(ids)), rtol=1e-2, atol=1e-2)
            )


def read_rows(path: Path, tokenizer: Any, longest: int, first_number: int = 0) -> list[Row]:
    """The examples of one file as token ids. Too long ones are left out."""
    rows: list[Row] = []
    # Not splitlines(): JSON leaves U+2028, which people paste, as it is.
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    for number, line in enumerate(lines if lines != [""] else [], 1):
        try:
            example = json.loads(line)
            messages, answer = example["messages"][:-1], example["messages"][-1]["content"]
            is_rehearsal, is_whole = example["source"] == "rehearsal", example.get("whole", True)
            author = str(example.get("version", ""))
        except (ValueError, KeyError, IndexError, TypeError):
            raise TrainingProblem(f"{path.name}, line {number} is not a training example") from None
        prompt = encode_chat(tokenizer, messages)
        # An answer that was cut must not teach the model to stop there.
        ids = prompt + plain_ids(tokenizer, answer) + ([tokenizer.eos_token_id] if is_whole else [])
        if len(prompt) < len(ids) <= longest:
            rows.append(Row(tuple(ids), len(prompt), is_rehearsal, first_number + number, author))
    return rows


def fair_to_all(held_out: Sequence[Row], parent: str) -> list[Row]:
    """The rows to validate on: without the parent's own answers, unless there are no others."""
    foreign = [row for row in held_out if row.author != parent]
    return list(held_out) if all(row.is_rehearsal for row in foreign) else foreign


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


def epoch_rows(rows: Sequence[Row], epoch: int, seed: int, ratio: float) -> list[Row]:
    """All taught rows, and the next stretch of the rehearsal rows, `ratio` times as many."""
    taught = [row for row in rows if not row.is_rehearsal]
    rehearsal = [row for row in rows if row.is_rehearsal]
    random.Random(seed).shuffle(rehearsal)
    count = min(len(rehearsal), round(len(taught) * ratio))
    return taught + [rehearsal[(epoch * count + i) % len(rehearsal)] for i in range(count)]


class Training:
    """One training from job to candidate."""

    def __init__(self, job: Job, report: Reporter) -> None:
        self._job = job
        self._report = report
        self._started = time.monotonic()
        self._steps = self._epochs = self._tokens = 0

    def run(self) -> TrainingResult:
        import torch

        torch.set_num_threads(self._job.options.train_threads or max(1, (os.cpu_count() or 2) - 1))
        self._report.tell("loading the base model")
        rows, held_out = self._rows()
        from cl.model.engine.loading import load_model

        learner = Learner(load_model(self._job.base), self._job.options, self._job.seed)
        self._report.tell("measuring what the base model knows")
        learner.remember_base([r for r in (*rows, *held_out) if r.is_rehearsal])
        base_loss, _ = learner.evaluate(held_out)
        parent = self._job.parent
        parent_loss = _parent_loss(learner, parent, held_out) if parent else base_loss
        best = self._learn(learner, rows, held_out)
        self._report.tell("writing the version", self._steps, self._steps)
        result = TrainingResult(
            val_loss=best[0],
            parent_val_loss=parent_loss,
            val_examples=sum(not row.is_rehearsal for row in held_out),
            base_val_loss=base_loss,
            drift=best[1] if math.isfinite(best[1]) else 0.0,
            steps=self._steps,
            epochs=self._epochs,
            tokens=self._tokens,
            seconds=time.monotonic() - self._started,
        )
        save(learner, self._job, result)
        return result

    def _rows(self) -> tuple[list[Row], list[Row]]:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self._job.base.folder, local_files_only=True)
        longest = self._job.options.max_example_tokens
        rows = read_rows(self._job.data / "train.jsonl", tokenizer, longest)
        held_out = read_rows(
            self._job.data / "val.jsonl", tokenizer, longest, len(rows) * 2 + 1_000_000
        )
        for found in (rows, held_out):
            if all(row.is_rehearsal for row in found):
                raise TrainingProblem("there is nothing to learn from, or nothing to validate on")
        return rows, fair_to_all(held_out, self._job.parent.name if self._job.parent else BASE)

    def _learn(
        self, learner: Learner, rows: Sequence[Row], held_out: Sequence[Row]
    ) -> tuple[float, float]:
        """Epoch by epoch, until validation gets worse. The best (loss, drift); its weights are set."""
        best, weights = (math.inf, 0.0), learner.weights()
        for is_last, rate, batch, steps in _schedule(rows, self._job.options, self._job.seed):
            self._step(learner, batch, rate, steps)
            if not is_last:
                continue
            self._epochs += 1
            seen = learner.evaluate(held_out)
            self._report.loss(step=self._steps, val=seen[0], drift=seen[1])
            if seen[0] >= best[0]:
                break
            best, weights = seen, learner.weights()
        learner.restore(weights)
        return best

    def _step(self, learner: Learner, batch: Sequence[Row], rate: float, steps: int) -> None:
        taught, kept = learner.step(batch, rate)
        self._steps += 1
        self._tokens += sum(len(row.ids) for row in batch)
        losses = {
            name: loss for name, loss in (("train", taught), ("kl", kept)) if math.isfinite(loss)
        }
        self._report.loss(step=self._steps, **losses)
        passed = time.monotonic() - self._started
        self._report.tell(
            "training",
            self._steps,
            steps,
            tokens_per_s=self._tokens / passed,
            seconds_left=passed / self._steps * (steps - self._steps),
        )


def _schedule(
    rows: Sequence[Row], options: TrainingOptions, seed: int
) -> Iterator[tuple[bool, float, list[Row], int]]:
    """(last of its epoch?, learning rate, batch, steps in all), step by step.

    The order depends on the seed and the epoch only. The rate warms up over a twentieth of the
    steps and then falls linearly to zero.
    """
    plan = [
        batches(
            epoch_rows(rows, epoch, seed, options.rehearsal_ratio),
            options.batch_tokens,
            random.Random(f"{seed}:{epoch}"),
        )
        for epoch in range(options.max_epochs)
    ]
    total, step = sum(len(epoch) for epoch in plan), 0
    for epoch in plan:
        for index, batch in enumerate(epoch):
            warm = min(1.0, (step + 1) / max(1.0, 0.05 * total))
            yield (
                index == len(epoch) - 1,
                options.learning_rate * warm * (1.0 - step / total),
                batch,
                total,
            )
            step += 1


def _parent_loss(learner: Learner, parent: Path, held_out: Sequence[Row]) -> float:
    learner.model.load_adapter(parent, adapter_name="parent")
    learner.model.set_adapter("parent")
    loss, _ = learner.evaluate([row for row in held_out if not row.is_rehearsal])
    learner.model.set_adapter("default")
    learner.model.delete_adapter("parent")
    return loss


def save(learner: Learner, job: Job, result: TrainingResult) -> None:
    """The adapter in peft's format with its manifest, whole or not at all."""
    # An earlier attempt may have got this far before the app was killed.
    shutil.rmtree(job.folder / "candidate", ignore_errors=True)
    with files.new_folder(job.folder / "candidate") as folder:
        learner.model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's card is an empty form
        write_manifest(
            folder,
            base=job.base.source,
            base_sha256=job.base.sha256,
            options=dataclasses.asdict(job.options),
            seed=job.seed,
            result=dataclasses.asdict(result),
        )
    if not (job.folder / "candidate" / ADAPTER).is_file():
        raise TrainingProblem("the adapter was not written")


def _mean(total: float, count: int) -> float:
    return total / count if count else math.nan


def _stay_out_of_the_way() -> None:
    """The chat comes first: lowest priority, and only otherwise idle time where the system knows it."""
    if hasattr(os, "nice"):
        os.nice(19)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _end_with_the_app() -> None:
    """The app holds our standard input open; when it is gone, however it died, so are we."""

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin: its lock would still be held at exit
            pass
        os._exit(EXIT_CANCELLED)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: Sequence[str]) -> int:
    job = Job.read(Path(arguments[0]))
    # Cancelled: nothing of worth is on the disk before result.json is.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(EXIT_CANCELLED))
    _end_with_the_app()
    _stay_out_of_the_way()
    try:
        result = Training(job, Reporter(job.folder)).run()
    except TrainingProblem as problem:
        files.write_json(job.folder / "result.json", {"problem": str(problem)})
        return EXIT_FAILED
    except MemoryError:
        files.write_json(job.folder / "result.json", {"problem": "out of memory"})
        return EXIT_FAILED
    files.write_json(job.folder / "result.json", dataclasses.asdict(result))
    return EXIT_DONE


if __name__ == "__main__":
    quiet_libraries()
    sys.exit(main(sys.argv[1:]))
