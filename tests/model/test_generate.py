"""Models of other builds: one answer at a time, through transformers' own `generate` and peft."""

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)

from cl import files
from cl.model.base_model import BaseModel, prepare, quiet_transformers
from cl.model.engine.contract import EngineError
from cl.model.engine.conversation import ChatTokenizer
from cl.model.engine.embedded import EmbeddedEngine
from cl.model.engine.loading import load_model
from cl.model.versions import ADAPTER, BadVersion, VersionStore, write_manifest
from cl.records import BASE, Message, Sampling
from tests.model.talking import FOREVER, ask, hear, run, said, started, until
from tests.tiny_model import CONTEXT, VOCABULARY, build_around

QUESTIONS = [said("Good morning, how are you?"), said("Hm", "Yes.", "And now?", system="Be brief.")]


def random_model(family: str) -> Any:
    torch.manual_seed(0)
    common = {
        "vocab_size": VOCABULARY,
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family == "GPT-2":
        return GPT2LMHeadModel(
            GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT, **common)
        )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(**sizes, num_attention_heads=4, max_position_embeddings=CONTEXT, **common)
    )


TARGETS = {"GPT-2": "c_attn", "GPT-NeoX": "query_key_value"}


@pytest.fixture(scope="module", params=TARGETS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp(request.param) / request.param
    return build_around(folder, random_model(request.param))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return build_around(tmp_path_factory.mktemp("other") / "GPT-2", random_model("GPT-2"))


def write_version(base: BaseModel, folder: Path, seed: int, fill: float = 1.0) -> None:
    quiet_transformers()
    family = base.folder.name
    settings = LoraConfig(
        r=4,
        target_modules=[TARGETS[family]],
        task_type="CAUSAL_LM",
        fan_in_fan_out=family == "GPT-2",
    )
    adapted = get_peft_model(load_model(base).float(), settings)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_" in name:
                weights.copy_(fill * torch.randn_like(weights))
    adapted.save_pretrained(folder)
    write_manifest(folder, base_sha256=base.sha256)


def write_misfit(base: BaseModel, folder: Path) -> None:
    """Its first layer fits, so it may be half loaded before the second one does not."""
    write_version(base, folder, 3)
    tensors = load_file(folder / ADAPTER)
    last = max(name for name in tensors if ".h.1." in name or ".layers.1." in name)
    tensors[last] = torch.ones(len(tensors[last]) + 1, *tensors[last].shape[1:])
    save_file(tensors, folder / ADAPTER)
    write_manifest(folder, base_sha256=base.sha256)


def store_of(base: BaseModel, folder: Path) -> VersionStore:
    """v0001 and v0002 fit, v0003 does not, v0004 computes infinities."""
    store = VersionStore(folder, base.sha256)
    for seed in (1, 2):
        write_version(base, store.path(f"v000{seed}"), seed)
    write_misfit(base, store.path("v0003"))
    write_version(base, store.path("v0004"), 4, fill=1e25)
    return store


@pytest.fixture(scope="module")
def versions(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> VersionStore:
    return store_of(base, tmp_path_factory.mktemp("versions"))


@pytest.fixture
def engine(base: BaseModel, versions: VersionStore) -> Iterator[EmbeddedEngine]:
    with started(base, versions) as made:
        made.ensure(BASE)
        yield made


def generated(
    base: BaseModel, conversation: Sequence[Message], length: int, version: Path | None = None
) -> str:
    """What transformers and peft themselves say."""
    model, tokenizer = load_model(base).float(), AutoTokenizer.from_pretrained(base.folder)
    if version is not None:
        model = PeftModel.from_pretrained(model, version).eval()
    prompt = tokenizer.apply_chat_template(
        conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(**prompt, max_new_tokens=length, do_sample=False)[0]
    answer = tokenizer.decode(ids[prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    return str(answer).rstrip("\ufffd")


# -- what it says ------------------------------------------------------------------------------


def test_a_greedy_answer_is_the_one_transformers_generates(
    engine: EmbeddedEngine, base: BaseModel
) -> None:
    for question in QUESTIONS:
        assert ask(engine, question, max_tokens=24)[0] == generated(base, question, 24)


def test_the_status_says_how_it_answers_and_why(engine: EmbeddedEngine) -> None:
    status = engine.status()
    assert (status["stage"], status["max_rows"]) == ("generate", 1)
    assert "not a stack of layers with rotary positions" in status["why"]


def test_versions_take_turns_and_each_says_what_peft_makes_of_it(
    engine: EmbeddedEngine, base: BaseModel, versions: VersionStore
) -> None:
    expected = {BASE: generated(base, QUESTIONS[0], 12)}
    for version in ("v0001", "v0002"):
        expected[version] = generated(base, QUESTIONS[0], 12, versions.path(version))
    assert len(set(expected.values())) == 3
    order = ["v0001", BASE, "v0002", "v0001", BASE, "v0002", "v0002", BASE]

    async def all_at_once() -> list[str]:
        return await asyncio.gather(
            *(hear(engine, QUESTIONS[0], Sampling(12), version) for version in order)
        )

    assert run(all_at_once()) == [expected[version] for version in order]


def test_a_seed_draws_the_same_answer_again(engine: EmbeddedEngine) -> None:
    drawn = {"temperature": 1.5, "top_p": 0.9, "max_tokens": 12}
    first = ask(engine, QUESTIONS[0], seed=1, **drawn)[0]
    assert ask(engine, QUESTIONS[0], seed=1, **drawn)[0] == first
    assert ask(engine, QUESTIONS[0], seed=2, **drawn)[0] != first


def test_the_settings_a_model_brings_along_do_not_change_how_it_is_asked(
    gpt2: BaseModel, tmp_path: Path
) -> None:
    """generation_config.json may ask for beams, penalties and sampling; our settings count."""
    shutil.copytree(gpt2.folder, tmp_path / "GPT-2")
    wishes = {"eos_token_id": 2, "num_beams": 3, "do_sample": True, "max_length": 20}
    files.write_json(tmp_path / "GPT-2" / "generation_config.json", wishes)
    other = prepare(str(tmp_path / "GPT-2"), tmp_path)
    answers = []
    for model in (gpt2, other):
        with started(model, VersionStore(tmp_path / "none", model.sha256)) as engine:
            answers.append(ask(engine, QUESTIONS[0], max_tokens=24))
    assert [text for text, _ in answers] == [answers[0][0]] * 2
    assert [finish.answer_tokens for _, finish in answers] == [24, 24]


# -- how an answer ends ------------------------------------------------------------------------


def test_an_answer_ends_at_its_limits(engine: EmbeddedEngine) -> None:
    assert ask(engine, QUESTIONS[0], max_tokens=3)[1].reason == "length"
    assert ask(engine, QUESTIONS[0], max_tokens=3)[1].answer_tokens == 3
    assert ask(engine, QUESTIONS[0], max_tokens=9, max_seconds=0.0)[1].reason == "time"
    whole = ask(engine, QUESTIONS[0], max_tokens=10**6)[1]
    assert (whole.reason, whole.prompt_tokens + whole.answer_tokens) == ("length", CONTEXT)


def test_every_stop_token_ends_an_answer(gpt2: BaseModel, tmp_path: Path) -> None:
    prompt = ChatTokenizer(gpt2).encode(QUESTIONS[0], CONTEXT, 24)
    ids = load_model(gpt2).float().generate(torch.tensor([prompt]), max_new_tokens=24)[0]
    answer = ids[len(prompt) :].tolist()
    stop = next(token for token in answer[4:] if token not in answer[:4])
    shutil.copytree(gpt2.folder, tmp_path / "GPT-2")
    files.write_json(tmp_path / "GPT-2" / "generation_config.json", {"eos_token_id": [2, stop]})
    other = prepare(str(tmp_path / "GPT-2"), tmp_path)
    with started(other, VersionStore(tmp_path / "none", other.sha256)) as engine:
        finish = ask(engine, QUESTIONS[0], max_tokens=24)[1]
    assert (finish.reason, finish.answer_tokens) == ("stop", answer.index(stop))


def test_leaving_in_the_middle_lets_the_next_one_in(engine: EmbeddedEngine) -> None:
    async def leave_then_ask() -> str:
        for _ in range(3):
            stream = engine.chat(BASE, said("Hello"), FOREVER)
            await anext(stream)
            await stream.aclose()
        answer = await hear(engine, said("Hello"), Sampling(4))
        await until(lambda: not engine.status()["rows"])
        return answer

    assert run(leave_then_ask()) == ask(engine, said("Hello"), max_tokens=4)[0]
    assert engine.status()["answers"]["cancelled"] == 3


def test_closing_ends_an_answer_in_its_middle(engine: EmbeddedEngine) -> None:
    async def close_in_the_middle() -> list[str | BaseException]:
        begun = asyncio.Event()
        asked = [
            asyncio.create_task(hear(engine, said("Hello"), FOREVER, on_piece=begun.set))
            for _ in range(2)
        ]
        await begun.wait()
        await asyncio.to_thread(engine.close)
        return await asyncio.gather(*asked, return_exceptions=True)

    for problem in run(close_in_the_middle()):
        assert isinstance(problem, EngineError)
        assert str(problem) == "The model is shutting down."


# -- versions that come, go and do not fit -----------------------------------------------------


def test_a_version_that_does_not_fit_leaves_no_trace(engine: EmbeddedEngine) -> None:
    """Neither as the first one, nor beside others; nor is it taken when asked for again."""
    before = ask(engine, QUESTIONS[0])[0]
    for others in ([], ["v0001"]):
        for version in others:
            engine.ensure(version)
        theirs = [ask(engine, QUESTIONS[0], version)[0] for version in others]
        for _ in range(2):
            with pytest.raises(BadVersion, match="does not fit the base model"):
                engine.ensure("v0003")
        assert ask(engine, QUESTIONS[0])[0] == before
        assert [ask(engine, QUESTIONS[0], version)[0] for version in others] == theirs
    assert engine.loaded() == [BASE, "v0001"]


def test_loading_a_version_changes_nothing_in_an_answer_that_is_being_written(
    engine: EmbeddedEngine,
) -> None:
    whole = ask(engine, QUESTIONS[0], max_tokens=100)[0]

    async def load_in_the_middle() -> str:
        begun = asyncio.Event()
        answer = asyncio.create_task(hear(engine, QUESTIONS[0], Sampling(100), on_piece=begun.set))
        await begun.wait()
        await asyncio.to_thread(engine.ensure, "v0001")
        await asyncio.to_thread(engine.ensure, "v0002")
        return await answer

    assert run(load_in_the_middle()) == whole


def test_a_dropped_version_is_gone_and_can_come_back(engine: EmbeddedEngine) -> None:
    base, first = ask(engine, QUESTIONS[0])[0], ask(engine, QUESTIONS[0], "v0001")[0]
    for _ in range(2):
        engine.drop("v0001")
        assert engine.loaded() == [BASE]
        assert ask(engine, QUESTIONS[0])[0] == base
        assert ask(engine, QUESTIONS[0], "v0001")[0] == first


def test_a_version_dropped_while_it_answers_finishes_the_answer(engine: EmbeddedEngine) -> None:
    whole = ask(engine, QUESTIONS[0], "v0001", max_tokens=40)[0]

    def drop() -> None:
        engine.drop("v0001")

    assert run(hear(engine, QUESTIONS[0], Sampling(40), "v0001", on_piece=drop)) == whole
    assert engine.loaded() == [BASE]


# -- what is not a number ----------------------------------------------------------------------


def test_a_damaged_base_model_is_refused_with_a_sentence(tmp_path: Path) -> None:
    for family in TARGETS:
        model = random_model(family)
        next(model.parameters()).data.fill_(float("nan"))
        base = build_around(tmp_path / family, model)
        with started(base, VersionStore(tmp_path / "none", base.sha256)) as engine:
            for _ in range(2):
                with pytest.raises(BadVersion, match=r"^The base model computes values"):
                    engine.ensure(BASE)


def test_a_version_that_computes_no_numbers_fails_alone(engine: EmbeddedEngine) -> None:
    base = ask(engine, QUESTIONS[0])[0]
    for sampling in (Sampling(8), Sampling(8, temperature=1.0, top_p=0.9)):
        with pytest.raises(EngineError, match="The answer failed"):
            engine.ask_all("v0004", [QUESTIONS[0]], sampling)
        assert ask(engine, QUESTIONS[0])[0] == base


def test_a_version_with_values_that_are_not_finite_is_refused(
    base: BaseModel, tmp_path: Path
) -> None:
    store = VersionStore(tmp_path, base.sha256)
    write_version(base, store.path("v0001"), 1, fill=float("nan"))
    with started(base, store) as engine, pytest.raises(BadVersion, match="not finite"):
        engine.ensure("v0001")


def test_no_thread_is_left_behind(base: BaseModel, versions: VersionStore) -> None:
    before = threading.active_count()
    with started(base, versions) as engine:
        ask(engine, QUESTIONS[0], "v0001")
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
