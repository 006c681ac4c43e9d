"""Do other trainers take our data sets? Each form is written, read and trained on by its reader.

    python -m tests.bench.consumers [TRAINER...]

with TRL, LLaMA-Factory or both installed beside the product; what is missing is named and skipped.
One line for each form and reader, with the loss of two steps of a tiny model; exit code 1 when a
reader failed, dropped an example, or learned from anything but the answer.
"""

# ruff: noqa: PLC0415 (each reader is there or not)

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cl.records import Message
from cl.transfer import convert_folder

LINES = 8


def say(role: str, content: str) -> Message:
    return Message(role=role, content=content)


def data_set(folder: Path) -> None:
    """One question or three, with and without a system message."""
    sets: dict[str, list[dict[str, Any]]] = {n: [] for n in ("train", "val", "votes", "pairs")}
    for number in range(LINES):
        prompt = [say("system", "Be brief.")] if number % 2 else []
        if number % 4 > 1:
            prompt += [say("user", "Hi"), say("assistant", "Hello."), say("user", "A riddle!")]
            prompt += [say("assistant", 'What is "é"?')]
        prompt += [say("user", f"Question {number}, please?")]
        good, bad = f"Answer {number}.", "No."
        split = "val" if number % 4 == 0 else "train"
        about = {"split": split, "id": number}
        for name in ("train", "val"):
            whole = [*prompt, say("assistant", good)]
            sets[name].append({"messages": whole, "source": "thumb", "id": number})
        for text, label in ((good, True), (bad, False)):
            sets["votes"].append({"prompt": prompt, "completion": text, "label": label, **about})
        sets["pairs"].append({"prompt": prompt, "chosen": good, "rejected": bad, **about})
    for name, lines in sets.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


# -- TRL -----------------------------------------------------------------------------------------


def trl(folder: Path, model: Path, name: str) -> str:
    import trl as library
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind = {"kto": "KTO", "dpo": "DPO"}.get(name, "SFT")
    rows = load_dataset("json", data_files=str(folder / f"train.{name}.jsonl"), split="train")
    tokenizer = AutoTokenizer.from_pretrained(model)
    options: dict[str, Any] = {"assistant_only_loss": False} if kind == "SFT" else {}
    config = getattr(library, f"{kind}Config")(
        output_dir=str(folder / "out"),
        max_steps=2,
        per_device_train_batch_size=2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    trainer = getattr(library, f"{kind}Trainer")(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
    )
    kept = len(trainer.train_dataset)
    assert kept == len(rows), f"{kept} of {len(rows)} examples kept"
    if name == "prompt-completion":
        batch = next(iter(trainer.get_train_dataloader()))
        learned = batch["labels"][batch["labels"] != -100]
        text = tokenizer.decode(learned, skip_special_tokens=True)
        assert "Question" not in text, text
        assert "Answer" in text, text
    loss = trainer.train().training_loss
    return f"{kept} examples, loss {loss:.2f}"


# -- LLaMA-Factory -------------------------------------------------------------------------------

COLUMNS: dict[str, dict[str, Any]] = {
    "sharegpt": {"formatting": "sharegpt", "columns": {"messages": "conversations"}},
    "alpaca": {
        "columns": {
            "prompt": "instruction",
            "query": "input",
            "response": "output",
            "system": "system",
            "history": "history",
        }
    },
    "messages": {
        "formatting": "openai",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    },
}


def llamafactory(folder: Path, model: Path, name: str) -> str:
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.train.tuner import run_exp
    from transformers import AutoTokenizer

    file = f"train.{name}.jsonl"
    about = {"ours": {"file_name": file, **COLUMNS[name]}}
    (folder / "dataset_info.json").write_text(json.dumps(about), encoding="utf-8")
    arguments = {
        "model_name_or_path": str(model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "dataset": "ours",
        "dataset_dir": str(folder),
        "template": "chatml",
        "cutoff_len": 256,
        "output_dir": str(folder / "out"),
        "overwrite_output_dir": True,
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    model_args, data_args, training_args, *_ = get_train_args(dict(arguments))
    tokenizer = AutoTokenizer.from_pretrained(model)
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    module = get_dataset(template, model_args, data_args, training_args, "sft", tokenizer=tokenizer)
    rows = module["train_dataset"]
    lines = [json.loads(s) for s in (folder / "train.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == len(lines), f"{len(rows)} of {len(lines)} examples kept"
    texts = {tokenizer.decode(row["input_ids"]): row for row in rows}
    for line in lines:
        asked = line["messages"][-2]["content"]
        text, row = next((text, row) for text, row in texts.items() if asked in text)
        learned = tokenizer.decode([i for i in row["labels"] if i != -100])
        at = [text.find(m["content"]) for m in line["messages"]]
        assert at == sorted(at), text
        assert at[0] >= 0, text
        assert line["messages"][-1]["content"] in learned, learned
        assert "Question" not in learned, learned
    run_exp(dict(arguments))
    found = json.loads((folder / "out" / "train_results.json").read_text())
    return f"{len(rows)} examples, loss {found['train_loss']:.2f}"


READERS: dict[str, tuple[Callable[[Path, Path, str], str], tuple[str, ...]]] = {
    "trl": (trl, ("messages", "prompt-completion", "kto", "dpo")),
    "llamafactory": (llamafactory, ("messages", "sharegpt", "alpaca")),
}


def tiny_model(folder: Path) -> Path:
    from tests.tiny_model import build

    return build(folder).folder


def outcomes(readers: list[str]) -> Iterator[tuple[bool, str]]:
    for reader in readers:
        read, names = READERS[reader]
        try:
            label = f"{reader} {version(reader)}"
        except PackageNotFoundError:
            yield True, f"{reader}: not installed, skipped"
            continue
        for name in names:
            with TemporaryDirectory() as place:
                folder = Path(place)
                data_set(folder)
                convert_folder(folder, name)
                model = tiny_model(folder / "model")
                try:
                    with redirect_stdout(sys.stderr):  # they have much to say
                        found = read(folder, model, name)
                    yield True, f"{name:<18}{label:<22}ok: {found}"
                except Exception as problem:  # noqa: BLE001 (whatever the library raises)
                    text = " ".join(f"{type(problem).__name__}: {problem}".split())
                    yield False, f"{name:<18}{label:<22}FAILED: {text[:300]}"


if __name__ == "__main__":
    results = []
    for ok, told in outcomes(sys.argv[1:] or list(READERS)):
        results.append(ok)
        print(told, flush=True)
    sys.exit(0 if all(results) else 1)
