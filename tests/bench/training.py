"""Tokens per processor second of our training and of TRL's SFTTrainer, on the same batches.

    python -m tests.bench.training --model DIR [--data DIR] [--rounds N] [--batch 7] [--length 150]

All train the same adapter (same first weights, same rates) on the same 200 examples in the same
order, one thread each, in child processes that take turns, with the memory settings of
training_job.py; bf16 weights, answers only. TRL runs twice: with torch's attention, as it comes, and
with transformers' eager one, which is the fastest here. DIR holds a train.jsonl as the app writes
it; without it, text is put together from assets/. Needs trl. The bound is what the large products
alone would allow, measured in our child with the same weights. What all examples have in common,
the beginning of the chat template, counts as tokens for both, though ours computes it once a batch.
"""

# ruff: noqa: PLC0415 (neither child is to load the other one's libraries, nor the parent any)

import argparse
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

EXAMPLES, RANK, ALPHA, RATE, SEED = 200, 16, 32, 1e-3, 0
SMOOTH = 8  # steps
_ROOT = Path(__file__).parents[2]
_QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

Example = dict[str, Any]  # ids, and where the answer begins


def examples(model: str, data: Path | None, length: int) -> list[Example]:
    """Of about `length` tokens, three fifths of them the answer's; in the order of training."""
    from transformers import AutoTokenizer

    from cl.model.engine.conversation import encode_chat, plain_ids

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    made = []
    for question, answer in itertools.islice(_texts(tokenizer, data, length), EXAMPLES):
        prompt = encode_chat(tokenizer, question)
        ids = prompt + plain_ids(tokenizer, answer) + [tokenizer.eos_token_id]
        made.append({"ids": ids, "answer_from": len(prompt)})
    return made


def _texts(tokenizer: Any, data: Path | None, length: int) -> Any:
    from cl.model.engine.conversation import plain_ids

    if data:
        for line in (data / "train.jsonl").read_text(encoding="utf-8").splitlines():
            messages = json.loads(line)["messages"]
            yield messages[:-1], messages[-1]["content"]
        return
    dice = random.Random(SEED)
    sentences = (_ROOT / "assets/rehearsal_prompts.txt").read_text(encoding="utf-8").splitlines()

    def text(tokens: float) -> str:
        found = ""
        while len(plain_ids(tokenizer, found)) < tokens:
            found += dice.choice(sentences) + " "
        return found.strip()

    while True:
        whole = dice.gauss(length, length / 6)
        question = text(0.4 * whole - 35)  # the template's own words
        yield [{"role": "user", "content": question}], text(0.6 * whole - 6)


def batched(rows: list[Example], size: int) -> list[list[Example]]:
    """Batches of like length, in random order, all full."""
    ordered = sorted(rows, key=lambda row: len(row["ids"]))
    made = [ordered[i : i + size] for i in range(0, len(ordered) - size + 1, size)]
    random.Random(SEED).shuffle(made)
    return made


def ours(model_folder: str, batches: list[list[Example]], first: Path) -> dict[str, Any]:
    """In a process of its own."""
    import torch
    from transformers import AutoModelForCausalLM

    from cl.model.training.learner import Learner
    from cl.model.training.plan import Step
    from cl.model.training.rows import Row
    from cl.settings import TrainingOptions

    torch.set_num_threads(1)
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16).eval()
    options = TrainingOptions(lora_rank=RANK, lora_alpha=ALPHA, learning_rate=RATE, lora_plus=1.0)
    learner = Learner(model, options, SEED)
    learner.adapter.save(first, model_folder)
    losses, stamps = [], []
    for index, batch in enumerate(batches):
        rows = [Row(tuple(row["ids"]), row["answer_from"], False, n) for n, row in enumerate(batch)]
        loss, _ = learner.step(Step(tuple(rows), (), RATE * (1 - index / len(batches)), False))
        losses.append(loss)
        stamps.append(time.process_time())
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "losses": losses,
        "stamps": stamps,
        "rss": rss,
        **_bound(model, learner.adapter, batches),
    }


def _bound(model: Any, adapter: Any, batches: list[list[Example]]) -> dict[str, float]:
    """Floating-point operations of a token, and how many a second these products reach alone.

    Each frozen matrix is multiplied once forward and once backward, the head on answers only.
    """
    import torch

    tokens = sum(len(row["ids"]) for batch in batches for row in batch)
    answers = sum(len(r["ids"]) - r["answer_from"] for batch in batches for r in batch)
    size = tokens // len(batches)
    weights = [(layer.matrix.detach(), size) for layer in adapter._layers.values()]
    head = model.get_output_embeddings().weight.detach()
    weights.append((head, answers // len(batches)))
    work = sum(4 * rows * matrix.numel() for matrix, rows in weights)
    inputs = {w.shape: (torch.randn(n, w.shape[1]), torch.randn(n, len(w))) for w, n in weights}
    pairs = {shape: (x.bfloat16(), y.bfloat16()) for shape, (x, y) in inputs.items()}
    taken = []
    for _ in range(5):
        began = time.process_time()
        for matrix, _rows in weights:
            x, y = pairs[matrix.shape]
            torch.mm(x, matrix.T)
            torch.mm(y, matrix)
        taken.append(time.process_time() - began)
    return {
        "flops_a_token": work / size,
        "flops_a_second": work / median(taken),
        "best_flops_a_second": max(_warm(*weight) for weight in weights[-8:]),
    }


def _warm(matrix: Any, rows: int) -> float:
    """Operations a second of one product again and again, its weights in the cache."""
    import torch

    x = torch.randn(rows, matrix.shape[1]).bfloat16()
    began = time.process_time()
    for _ in range(10):
        torch.mm(x, matrix.T)
    return 20 * rows * float(matrix.numel()) / (time.process_time() - began)


def trl(
    model_folder: str, batches: list[list[Example]], first: Path, attention: str
) -> dict[str, Any]:
    """In a process of its own."""
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(1)
    stamps = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            stamps.append(time.process_time())

    rows = [
        {
            "input_ids": row["ids"],
            "completion_mask": [int(i >= row["answer_from"]) for i in range(len(row["ids"]))],
        }
        for batch in batches
        for row in batch
    ]
    model = AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=torch.bfloat16, attn_implementation=attention
    )
    with TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=PeftModel.from_pretrained(model, first, is_trainable=True),
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=len(batches[0]),
                train_sampling_strategy="sequential",
                num_train_epochs=1,
                learning_rate=RATE,
                lr_scheduler_type="linear",
                warmup_steps=0,
                weight_decay=0.0,
                max_grad_norm=1.0,
                completion_only_loss=True,
                max_length=None,
                gradient_checkpointing=False,
                use_cpu=True,
                optim="adamw_torch_fused",
                dataloader_pin_memory=False,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=SEED,
                bf16=True,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(model_folder),
            callbacks=[Clock()],
        )
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"losses": losses, "stamps": stamps, "rss": rss}


CHILDREN = {
    "ours": ours,
    "TRL": partial(trl, attention="sdpa"),
    "TRL, eager": partial(trl, attention="eager"),
}


def run(who: str, model: str, folder: Path) -> dict[str, Any]:
    from cl.model.training_job import _MALLOC

    command = [sys.executable, "-m", "tests.bench.training", "--model", model]
    child = subprocess.run(
        [*command, "--child", who, "--folder", str(folder)],
        env={**os.environ, **_QUIET, **_MALLOC},
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if who != "ours" else None,
        check=True,
    )
    return dict(json.loads(child.stdout.splitlines()[-1]))


def tokens_a_second(found: dict[str, Any], batches: list[list[Example]]) -> float:
    """From the end of the first step on: what is done only once is no part of it."""
    tokens = sum(len(row["ids"]) for batch in batches[1:] for row in batch)
    return float(tokens / (found["stamps"][-1] - found["stamps"][0]))


def _smoothed(losses: list[float]) -> list[float]:
    return [sum(losses[i : i + SMOOTH]) / SMOOTH for i in range(len(losses) - SMOOTH + 1)]


def report(batches: list[list[Example]], found: dict[str, list[dict[str, Any]]]) -> None:
    tokens = [len(row["ids"]) for batch in batches for row in batch]
    answers = [len(row["ids"]) - row["answer_from"] for batch in batches for row in batch]
    print(
        f"{len(tokens)} examples, {sum(tokens) / len(tokens):.0f} tokens each, "
        f"{sum(answers) / sum(tokens):.0%} of them answers; {len(batches)} steps"
    )
    print(
        f"{'':12}{'tokens/CPU s':>14}{'ours is':>10}{'rounds':>16}{'MB':>8}{'ours is':>10}", end=""
    )
    print(f"{'loss':>18}{'curve apart':>13}")
    mine = [tokens_a_second(r, batches) for r in found["ours"]]
    memory, curve = median(r["rss"] for r in found["ours"]), _smoothed(found["ours"][0]["losses"])
    for who, runs in found.items():
        speeds = [tokens_a_second(r, batches) for r in runs]
        ratios = [a / b for a, b in zip(mine, speeds, strict=True)]
        peak, other = median(r["rss"] for r in runs), _smoothed(runs[0]["losses"])
        apart = [abs(a - b) / b for a, b in zip(curve, other, strict=True)]
        print(
            f"{who:12}{median(speeds):>14.0f}{median(ratios):>9.2f}x"
            f"{' '.join(f'{ratio:.2f}' for ratio in ratios):>16}{peak:>8.0f}{memory / peak:>10.0%}"
            f"{f'{other[0]:.3f} to {other[-1]:.3f}':>18}{sum(apart) / len(apart):>13.2%}"
        )
    flops = found["ours"][0]["flops_a_token"]
    for name, key in (("in turn", "flops_a_second"), ("best shape, warm", "best_flops_a_second")):
        alone = median(r[key] for r in found["ours"])
        share = median(s * flops / r[key] for s, r in zip(mine, found["ours"], strict=True))
        print(
            f"bound, large products {name}: {flops / 1e9:.2f} GFLOP a token at "
            f"{alone / 1e9:.0f} GFLOP/s = {alone / flops:.0f} tokens/s; ours reaches {share:.0%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="folder of the base model")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=7)
    parser.add_argument("--length", type=int, default=150)
    parser.add_argument("--child", choices=list(CHILDREN), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        batches = json.loads((chosen.folder / "batches.json").read_text(encoding="utf-8"))
        work = CHILDREN[chosen.child]
        print(json.dumps(work(chosen.model, batches, chosen.folder / "first")))
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        batches = batched(examples(chosen.model, chosen.data, chosen.length), chosen.batch)
        (folder / "batches.json").write_text(json.dumps(batches), encoding="utf-8")
        found: dict[str, list[dict[str, Any]]] = {who: [] for who in CHILDREN}
        for _ in range(chosen.rounds):
            for who, runs in found.items():
                runs.append(run(who, chosen.model, folder))
        report(batches, found)


if __name__ == "__main__":
    main()
