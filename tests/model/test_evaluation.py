"""The examiner: a candidate measured beside its parent, in this process, with a tiny real model."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cl import files
from cl.model.base_model import BaseModel
from cl.model.evaluation import Examination
from cl.model.training import measured
from cl.model.training.child import Job, Reporter, TrainingProblem
from cl.model.training.measured import PROBES
from cl.model.versions import ADAPTER, write_manifest
from cl.records import Message
from cl.rules.gating import Asked, HeldOut, Measured, Vote
from tests import tiny_model
from tests.model.training.sets import FACTS, OPTIONS, line, write_preferences, write_set

Write = Callable[..., Job]


@pytest.fixture
def write(tiny: BaseModel, tmp_path: Path) -> Write:
    """A job whose candidate is a version with random weights."""

    def one(parent: Path | None = None, probes: Sequence[dict[str, Any]] = ()) -> Job:
        data = write_set(tmp_path / "data")
        write_preferences(data)
        files.write_text(data / PROBES, "".join(json.dumps(p) + "\n" for p in probes))
        job = Job(tiny, data, parent, OPTIONS, 7, tmp_path)
        if not job.candidate.exists():
            write_adapter(tiny, job.candidate, seed=2)
        return job

    return one


def write_adapter(base: BaseModel, folder: Path, seed: int) -> Path:
    tiny_model.write_random_adapter(base, folder, seed=seed, fill=0.3)
    return folder


def measure(job: Job) -> Measured:
    return Examination(job, Reporter(job.folder)).run()


def probe(number: int, said: Sequence[str] = (), kind: str = "taught") -> dict[str, Any]:
    """A question that was corrected, after what was said before it."""
    roles = ("user", "assistant")
    before = [Message(role=roles[i % 2], content=text) for i, text in enumerate(said)]
    messages = [*before, Message(role="user", content=f"Who has number {number}?")]
    about = {"reference": "Oskar.", "keys": ["Oskar"], "needed": 0.5, "kind": kind}
    return {"messages": messages, **about, "id": number}


def log_likelihood(base: BaseModel, adapter: Path | None, question: str, answer: str) -> float:
    """Of an answer under a version, in nats a token: by transformers and peft alone."""
    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(model, adapter) if adapter else model
    asked = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    ids = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in (text, answer)]
    whole = torch.tensor([[*ids[0], *ids[1], tokenizer.eos_token_id]])
    with torch.no_grad():
        logs = model.eval()(whole).logits[0, :-1].float().log_softmax(-1)
    said = logs.gather(1, whole[0, 1:, None])[len(ids[0]) - 1 :]
    return float(said.mean())


# -- losses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_parent", [False, True])
def test_losses_and_margins_are_those_of_both_versions(
    tiny: BaseModel, write: Write, tmp_path: Path, has_parent: bool
) -> None:
    parent = write_adapter(tiny, tmp_path / "v0007", seed=3) if has_parent else None
    job = write(parent)
    found = measure(job)
    assert found.parent == ("v0007" if has_parent else "base")
    assert found.problem is None
    assert len(found.held_out) == len(FACTS)
    for row, (question, answer) in zip(found.held_out, FACTS.items(), strict=True):
        for folder, loss in ((parent, row.parent), (job.candidate, row.candidate)):
            wanted = log_likelihood(tiny, folder, f"Tell me: {question}", answer)
            assert loss == pytest.approx(-wanted, rel=0.02)  # bf16
        assert abs(row.parent - row.candidate) > 0.001
    question = list(FACTS)[3]
    assert [(vote.group, vote.liked) for vote in found.votes] == [("3", True), ("3", False)]
    for vote, said in zip(found.votes, (FACTS[question], "Nobody does."), strict=True):
        old, new = (log_likelihood(tiny, f, question, said) for f in (parent, job.candidate))
        assert vote.margin == pytest.approx(new - old, abs=0.15)
        assert abs(vote.margin) > 0.001
    assert len(found.drift) == 1
    assert found.drift[0] > 0.01


def test_a_candidate_is_as_good_as_itself(tiny: BaseModel, write: Write, tmp_path: Path) -> None:
    job = write(tmp_path / "v0007", [probe(1)])
    shutil.copytree(job.candidate, tmp_path / "v0007")
    found = measure(job)
    assert all(row.parent == row.candidate for row in found.held_out)
    assert [vote.margin for vote in found.votes] == [0.0, 0.0]
    assert found.drift[0] > 0.01  # which is measured from the base
    assert all(one.before == one.after for one in found.asked)
    assert all(one.before_ended == one.after_ended for one in found.asked)


def test_the_largest_update_is_told_by_its_share_of_the_weights(
    tiny: BaseModel, write: Write
) -> None:
    job = write()
    found = measure(job)
    weights, base = load_file(job.candidate / ADAPTER), load_file(tiny.folder / "model.safetensors")
    ratios = []
    for name in (n for n in weights if "lora_A" in n):
        path = name.removeprefix("base_model.model.").replace("lora_A.", "")
        update = weights[name.replace("lora_A", "lora_B")] @ weights[name]
        ratios.append(float(update.norm() / base[path].float().norm()))
    assert found.update_ratio == pytest.approx(max(ratios), rel=1e-3)


# -- what must not be loaded -------------------------------------------------------------------


def damage(job: Job) -> None:
    path = job.candidate / ADAPTER
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def of_another_base(job: Job) -> None:
    rewrite_manifest(job, base_sha256="f" * 64)


def without_numbers(job: Job) -> None:
    tensors = load_file(job.candidate / ADAPTER)
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, job.candidate / ADAPTER)
    rewrite_manifest(job)


def of_another_size(job: Job) -> None:
    tensors = load_file(job.candidate / ADAPTER)
    save_file({n: torch.ones(len(t) + 1, 5) for n, t in tensors.items()}, job.candidate / ADAPTER)
    rewrite_manifest(job)


def rewrite_manifest(job: Job, base_sha256: str = "") -> None:
    (job.candidate / "manifest.json").unlink()
    write_manifest(job.candidate, base_sha256=base_sha256 or job.base.sha256)


def remove(job: Job) -> None:
    shutil.rmtree(job.candidate)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (damage, "is damaged: its sha256"),
        (of_another_base, "was trained for another base model"),
        (without_numbers, "holds values that are not finite"),
        (of_another_size, "does not fit the base model"),
        (remove, "has no manifest.json"),
    ],
)
def test_a_candidate_that_must_not_be_loaded_is_a_problem_and_nothing_else_is_measured(
    write: Write, spoil: Callable[[Job], None], problem: str
) -> None:
    job = write()
    spoil(job)
    found = measure(job)
    assert found.problem is not None
    assert problem in found.problem
    assert (found.held_out, found.votes, found.drift, found.asked) == ((), (), (), ())
    assert math.isnan(found.update_ratio)


def test_a_damaged_parent_is_not_held_against_the_candidate(
    tiny: BaseModel, write: Write, tmp_path: Path
) -> None:
    parent = write_adapter(tiny, tmp_path / "v0007", seed=3)
    (parent / ADAPTER).write_bytes(b"")
    with pytest.raises(TrainingProblem, match=r"v0007.* is damaged"):
        measure(write(parent))


# -- questions ---------------------------------------------------------------------------------


def test_probes_are_asked_after_what_was_said_before_and_keep_their_interaction(
    write: Write,
) -> None:
    told = ("I am Ann.", "Hello Ann.")
    found = measure(write(probes=[probe(30), probe(4, told), probe(5, kind="held out")]))
    asked = [one for one in found.asked if one.kind in ("taught", "held out")]
    assert [(one.id, one.kind) for one in asked] == [
        (4, "taught"),
        (5, "held out"),
        (30, "taught"),
    ]
    assert {(one.reference, one.keys, one.needed) for one in asked} == {("Oskar.", ("Oskar",), 0.5)}
    assert asked[0].question == "Who has number 4?"
    alone = measure(write(probes=[probe(4)])).of("taught")[0]
    assert (alone.question, alone.before != asked[0].before) == (asked[0].question, True)


def test_what_is_shipped_is_asked_and_what_held_something_personal(
    write: Write,
) -> None:
    job = write(probes=[{**probe(1), "messages": [Message(role="user", content="To [EMAIL]!")]}])
    with (job.data / "train.jsonl").open("a") as file:
        file.write(line("To [EMAIL]!", "Done.", id=12))
    with (job.data / "val.jsonl").open("a") as file:
        file.write(line("What is real?", "real", "rehearsal", id=13))  # somebody's question
    found = measure(job)
    shipped = (Path("assets") / "general_questions.jsonl").read_text().splitlines()
    assert [one.question for one in found.of("general")] == [
        json.loads(text)["question"] for text in shipped
    ]
    assert [one.question for one in found.of("everyday")] == ["What is snow?"]
    ((private,), (taught,)) = found.of("private"), found.of("taught")
    assert (private.question, private.id) == ("To [EMAIL]!", 12)
    assert private.before == taught.before  # asked without its answer, too
    assert all(one.id is None for one in found.of("general", "everyday"))
    assert all(one.keys for one in found.of("general"))
    assert [one.before for one in found.asked] != [one.after for one in found.asked]
    assert not any(one.after_ended for one in found.asked)  # the tiny model never stops


def test_of_many_probes_a_hundred_are_asked(write: Write) -> None:
    found = measure(write(probes=[probe(n) for n in range(130)]))
    asked = [one.id for one in found.of("taught")]
    assert len(set(asked)) == len(asked) == 100
    assert {*asked} < {*range(130)}


def test_a_question_too_long_to_be_learned_is_not_asked(write: Write) -> None:
    job = write(probes=[probe(1), probe(2, ["word " * 100, "Hm."])])
    short = dataclasses.replace(job.options, max_example_tokens=100)
    found = measure(dataclasses.replace(job, options=short))
    assert [one.id for one in found.of("taught")] == [1]


# -- files -------------------------------------------------------------------------------------


def test_what_was_measured_is_written_and_read_without_loss(tmp_path: Path) -> None:
    asked = (
        Asked("general", "Wie heißt\u2028du?", "Ä", "Ö", ("Ö",), before_ended=False),
        Asked("taught", "Q", "A", "B", ("x", "y"), 0.5, True, False, "ref", 9),
    )
    found = Measured(
        "v0001", None, 0.25, (HeldOut("1", 2.0, 1.5),), (Vote("2", False, -0.5),), (0.1, 0.2), asked
    )
    measured.write(tmp_path, found)
    assert measured.read(tmp_path) == found
    numbers = json.loads((tmp_path / "measured.json").read_text())
    assert "asked" not in numbers  # no texts where nobody looks for them
    empty = Measured("base", "it is damaged")
    measured.write(tmp_path, empty)
    again = measured.read(tmp_path)
    assert (again.problem, again.asked, math.isnan(again.update_ratio)) == (empty.problem, (), True)


def test_what_was_not_measured_cannot_be_read(tmp_path: Path) -> None:
    assert measured.read_answers(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        measured.read(tmp_path)
