"""How fast answers come, beside the usual ways of giving them.

    python -m tests.bench.serving [--rounds 3] [--models DIR] [--openvino PYTHON] [--web] [--gpu]

All systems answer the same questions in turns, in one run: the machine's moods hit them alike, and
the ratios of their medians are what counts. Each is a process of its own, asked over a pipe, and
idle while another one works.

    template   the usual Space: transformers' `generate` in bf16, a thread, one person at a time
    ours       the engine as it runs in the app: base, and versions with adapters
    eager      the same without a compiler
    int8       the same with weights of 8 bits
    openvino   OpenVINO GenAI's continuous batching on the same weights in Q8_0; PYTHON is an
               interpreter that has openvino-genai
    web        ours, through the web server: page events in, server-sent events out
"""

import argparse
import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer

from cl.model.base_model import BaseModel, prepare
from cl.model.engine.embedded import EmbeddedEngine
from cl.model.engine.loading import load_model
from cl.model.versions import VersionStore, write_manifest
from cl.records import Sampling
from cl.settings import DEFAULT_MODEL, ServingOptions
from tests.tiny_model import write_gguf

NEW_TOKENS = 128
ROOT = Path(__file__).parents[2]
TOPICS = [
    "the sea",
    "a lighthouse",
    "two brothers",
    "winter",
    "a lost key",
    "the first train",
    "a garden",
    "bees",
]
SYSTEM = "You are a helpful assistant of a company. You answer in plain words and you do not invent facts."


def question(number: int, words: int = 45) -> list[dict[str, str]]:
    """About 100 tokens with the template; no two are alike."""
    dice = random.Random(number)
    filler = " ".join(
        dice.choice(
            [
                "the",
                "old",
                "ship",
                "sailed",
                "over",
                "a",
                "quiet",
                "sea",
                "while",
                "we",
                "sat",
                "and",
                "ate",
                "our",
                "bread",
            ]
        )
        for _ in range(words)
    )
    text = f"Tell me a very long story about {TOPICS[number % 8]}, number {number}: {filler}"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


@dataclass
class Load:
    """Who asks what, and when: seconds after the start."""

    name: str
    at: list[float]
    versions: list[str]
    words: int = 45
    last_words: int = 45

    def asked(self, index: int) -> int:
        """Words of filler in a question."""
        return self.last_words if index == len(self.at) - 1 else self.words


def loads(first: int) -> list[Load]:
    dice = random.Random(first)
    apart = [dice.expovariate(4.0) for _ in range(8)]
    random_times = [sum(apart[: i + 1]) for i in range(8)]
    return [
        Load("1 user", [0.0], ["base"]),
        Load("1 user, champion", [0.0], ["v0001"]),
        Load("8 together", [0.0] * 8, ["base"] * 8),
        Load("8 together, champion", [0.0] * 8, ["v0001"] * 8),
        Load("8 together, 7 + 1", [0.0] * 8, ["v0001"] * 7 + ["v0002"]),
        Load("8 at random", random_times, ["base"] * 8),
        Load("long prompts join", [0.0] * 7 + [0.5], ["base"] * 8, 45, 900),
    ]


# -- the systems, each in a process of its own -------------------------------------------------


class Moments(BaseStreamer):
    """What a TextIteratorStreamer sees: each token when it comes, the prompt first."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._is_prompt = True
        self.seen: list[float] = []

    def put(self, value: Any) -> None:
        if not self._is_prompt:
            self._tokenizer.decode(value)
            self.seen.append(time.perf_counter())
        self._is_prompt = False

    def end(self) -> None: ...


def serve_template(base: BaseModel) -> Callable[[Load, int], list[list[float]]]:

    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    model = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.bfloat16).eval()
    one_at_a_time = threading.Lock()

    def answer(load: Load, number: int, index: int, start: float, out: list[list[float]]) -> None:
        time.sleep(max(0.0, start + load.at[index] - time.perf_counter()))
        asked = time.perf_counter()
        streamer = Moments(tokenizer)
        with one_at_a_time:
            ids = tokenizer.apply_chat_template(
                question(number, load.words),
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
            )
            model.generate(
                **ids,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                do_sample=False,
                streamer=streamer,
            )
        out[index] = [t - asked for t in streamer.seen]

    def run(load: Load, first: int) -> list[list[float]]:
        out: list[list[float]] = [[] for _ in load.at]
        start = time.perf_counter()
        threads = [
            threading.Thread(target=answer, args=(load, first + i, i, start, out))
            for i in range(len(load.at))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return out

    return run


def serve_ours(
    base: BaseModel, models: Path, **options: str
) -> Callable[[Load, int], list[list[float]]]:

    engine = EmbeddedEngine(
        base,
        VersionStore(models, base.sha256),
        replace(ServingOptions(), **options),  # type: ignore[arg-type]
    )
    for version in ("base", "v0001", "v0002"):
        engine.ensure(version)
    assert engine._model is not None
    engine._model = replace(engine._model, stop_tokens=frozenset())  # all answers are equally long
    print("#", engine.status()["stage"], engine.status()["why"], file=sys.stderr)

    async def answer(load: Load, number: int, index: int, start: float) -> list[float]:
        await asyncio.sleep(max(0.0, start + load.at[index] - time.perf_counter()))
        asked, seen = time.perf_counter(), []
        sampling = Sampling(max_tokens=NEW_TOKENS)
        stream = engine.chat(
            load.versions[index], question(number, load.asked(index)), sampling, user=f"u{index}"
        )  # type: ignore[arg-type]
        async for piece in stream:
            if piece.text:
                seen.append(time.perf_counter() - asked)
            if piece.finish:
                assert piece.finish.answer_tokens == NEW_TOKENS
        return seen

    async def everybody(load: Load, first: int) -> list[list[float]]:
        start = time.perf_counter()
        return await asyncio.gather(
            *(answer(load, first + i, i, start) for i in range(len(load.at)))
        )

    return lambda load, first: asyncio.run(everybody(load, first))


def serve(name: str, base: BaseModel, models: Path) -> None:
    """A system's process: loads in, moments of tokens out, one JSON line each."""
    run = {
        "template": lambda: serve_template(base),
        "ours": lambda: serve_ours(base, models),
        "eager": lambda: serve_ours(base, models, compile="off"),
        "int8": lambda: serve_ours(base, models, weights="int8"),
    }[name]()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        first = asked.pop("first")
        seen = run(Load(**asked), first)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seen": seen, "peak": peak}), flush=True)


# -- the comparison ------------------------------------------------------------------------------


class System:
    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"},
        )  # fmt: skip
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == '"ready"':
                break

    def ask(self, load: Load, first: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({**vars(load), "first": first}), file=self._process.stdin, flush=True)
        return dict(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@dataclass
class Figures:
    rate: float
    first: list[float]
    between: list[float]
    peak: float


def figures(load: Load, answer: dict[str, Any]) -> Figures:
    seen: list[list[float]] = answer["seen"]
    end = max(at + times[-1] for at, times in zip(load.at, seen, strict=True))
    tokens = answer.get("tokens", NEW_TOKENS * len(seen))
    between = [b - a for times in seen for a, b in pairwise(times)]
    return Figures(tokens / (end - min(load.at)), [t[0] for t in seen], between, answer["peak"])


def percentile(values: Sequence[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def write_versions(base: BaseModel, models: Path) -> None:
    """Two versions of the size the trainer makes, with random weights."""

    for number in (1, 2):
        folder = models / f"v{number:04d}"
        if folder.exists():
            continue
        torch.manual_seed(number)
        config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        adapted = get_peft_model(load_model(base).float(), config)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=2e-3)
        adapted.save_pretrained(folder)
        write_manifest(folder, base_sha256=base.sha256)


def systems(options: argparse.Namespace, models: Path) -> Iterator[System]:
    here = [sys.executable, "-m", "tests.bench.serving", "--models", str(models), "--serve"]
    for name in options.only.split(",") if options.only else ("template", "ours", "eager", "int8"):
        yield System(name, [*here, name])
    if options.openvino:
        gguf = models / "q8_0.gguf"
        if not gguf.exists():
            write_gguf(prepare(DEFAULT_MODEL, models).folder, gguf, q8=True)
        worker = Path(__file__).with_name("openvino_worker.py")
        yield System("openvino", [options.openvino, str(worker), str(gguf)])
    if options.web:
        yield System("web", [sys.executable, "-m", "tests.bench.web_worker", str(models)])


def compare(options: argparse.Namespace, models: Path) -> None:
    base = prepare(DEFAULT_MODEL, models)
    write_versions(base, models)
    asked = list(systems(options, models))
    found: dict[tuple[str, str], list[Figures]] = defaultdict(list)
    for turn in range(-1, options.rounds):
        for number, load in enumerate(loads(turn)):
            for system in asked:
                if system.name in ("template", "openvino", "web") and set(load.versions) != {
                    "base"
                }:
                    continue  # they cannot mix versions
                if system.name == "template" and len(load.at) > 1 and turn > 0:
                    continue  # a minute each, and always the same
                answer = system.ask(load, 1000 * (turn + 2) + 10 * number)
                if turn >= 0:  # the first round warms up
                    found[load.name, system.name].append(figures(load, answer))
    for system in asked:
        system.close()
    report(found)


def report(found: dict[tuple[str, str], list[Figures]]) -> None:
    single = (
        median(f.rate for f in found["1 user", "template"])
        if ("1 user", "template") in found
        else 0.0
    )
    print(
        f"{'':22} {'':9} {'tok/s':>7} {'x':>6}  {'first token':>15}  {'between tokens':>15}  {'peak':>6}"
    )
    print(f"{'':22} {'':9} {'':7} {'':6}  {'p50':>7} {'p95':>7}  {'p50':>7} {'p95':>7}  {'MB':>6}")
    for (load, system), rounds in found.items():
        rate = median(f.rate for f in rounds)
        first = [t for f in rounds for t in f.first]
        between = [t for f in rounds for t in f.between]
        times = f"{rate / single:6.1f}" if single else f"{'':6}"
        print(
            f"{load:22} {system:9} {rate:7.0f} {times}  {median(first):6.2f}s {percentile(first, 0.95):6.2f}s"
            f"  {1000 * median(between):5.0f}ms {1000 * percentile(between, 0.95):5.0f}ms  {rounds[-1].peak:6.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=Path, help="where the base model lies or is to lie")
    parser.add_argument("--only", help="these systems, separated by commas")
    parser.add_argument("--openvino", metavar="PYTHON")
    parser.add_argument("--web", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, prepare(DEFAULT_MODEL, options.models), options.models)
        return
    with TemporaryDirectory() as scratch:
        compare(options, options.models or Path(scratch))


if __name__ == "__main__":
    main()
