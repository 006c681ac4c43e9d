"""How close the engine comes to transformers in float32, token by token.

    python -m tests.bench.accuracy [--models DIR] [--tokens 64]

The same texts are read by both, each row with its version, base and two versions mixed in one batch
of eight. Prints the mean Kullback-Leibler divergence (nats a token) of the next token's
distribution and the share of positions with the same likeliest token, for each stage; and how often
a row finds the same token alone as in company. transformers in bf16 is measured beside them.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from cl.model.base_model import BaseModel, prepare, quiet_transformers
from cl.model.engine.batch import Batch, Feed
from cl.model.engine.native import compiled
from cl.model.engine.network import Network, read
from cl.model.engine.ops import TorchOps
from cl.settings import DEFAULT_MODEL
from tests.bench.serving import question, write_versions

VERSIONS = ["base", "v0001", "base", "v0001", "v0002", "base", "v0001", "v0002"]


def texts(base: BaseModel, exact: dict[str, Any], tokens: int) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer) of each row; the answer is what float32 says, so that it is likely text."""
    tokenizer, found = AutoTokenizer.from_pretrained(base.folder), []
    for number, version in enumerate(VERSIONS):
        prompt = tokenizer.apply_chat_template(
            question(number, 10 + 5 * number),
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        ids = exact[version].generate(
            **prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
        )
        size = prompt["input_ids"].shape[1]
        found.append((ids[0, :size].tolist(), ids[0, size:].tolist()))
    return found


def forced(
    network: Network, rows: Sequence[int], told: list[tuple[list[int], list[int]]], models: Path
) -> dict[int, Tensor]:
    """Logits (tokens, vocabulary) of these rows, answered in one batch."""
    adapters = {v: network.load_adapter(models / v) for v in set(VERSIONS) - {"base"}}
    cache, found = network.new_cache(len(VERSIONS)), {row: [] for row in rows}
    lengths = {row: len(told[row][0]) for row in rows}
    for step in range(len(told[0][1])):
        feeds = []
        for row in rows:
            prompt, answer = told[row]
            if step == 0:
                feeds.append(Feed(row, VERSIONS[row], prompt, 0, True))
            else:
                position = lengths[row] + step - 1
                feeds.append(Feed(row, VERSIONS[row], [answer[step - 1]], position, True))
        for row, logits in zip(
            rows, network.forward(Batch(feeds, network.device), cache, adapters), strict=True
        ):
            found[row].append(logits)
    return {row: torch.stack(logits) for row, logits in found.items()}


def reference(model: Any, prompt: list[int], answer: list[int]) -> Tensor:
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].float()
    return logits[len(prompt) - 1 : -1]


def apart(exact: Tensor, other: Tensor) -> tuple[float, float]:
    """(KL divergence in nats a token, share of the same likeliest token)."""
    p, q = exact.log_softmax(-1), other.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean()), float(
        (exact.argmax(-1) == other.argmax(-1)).float().mean()
    )


@dataclass(frozen=True)
class Closeness:
    """To transformers in float32: nats a token; share of positions with the same likeliest token;
    and share of positions at which a row alone finds the token it finds in company."""

    divergence: float
    same_top: float
    same_alone: float


def measure(base: BaseModel, models: Path, tokens: int) -> dict[str, Closeness]:
    quiet_transformers()
    write_versions(base, models)

    def whole(dtype: torch.dtype) -> dict[str, Any]:
        plain = {
            v: AutoModelForCausalLM.from_pretrained(base.folder, dtype=dtype).eval()
            for v in sorted(set(VERSIONS))
        }
        return {
            v: m if v == "base" else PeftModel.from_pretrained(m, models / v).eval()
            for v, m in plain.items()
        }

    exact = whole(torch.float32)
    told = texts(base, exact, tokens)
    wanted = [reference(exact[v], *told[i]) for i, v in enumerate(VERSIONS)]
    del exact
    rounded = whole(torch.bfloat16)
    theirs = [reference(rounded[v], *told[i]) for i, v in enumerate(VERSIONS)]
    found = {"transformers bf16": closeness(wanted, theirs, theirs)}
    model = rounded["base"]
    first = model.model.layers[0].self_attn
    group = first.q_proj.out_features // first.k_proj.out_features
    stages = {
        "compiled": compiled(first.head_dim, group, models),
        "compiled, int8": compiled(first.head_dim, group, models, int8=True),
        "prepacked": TorchOps(torch.bfloat16),
    }
    for name, ops in stages.items():
        network = read(model, ops, context=2048)
        rows = range(len(VERSIONS))
        together = forced(network, rows, told, models)
        alone = [forced(network, [row], told, models)[row] for row in rows]
        found[name] = closeness(wanted, [together[row] for row in rows], alone)
    return found


def closeness(
    wanted: Sequence[Tensor], together: Sequence[Tensor], alone: Sequence[Tensor]
) -> Closeness:
    rows = [apart(exact, other) for exact, other in zip(wanted, together, strict=True)]
    same = [
        float((a.argmax(-1) == b.argmax(-1)).float().mean())
        for a, b in zip(together, alone, strict=True)
    ]
    return Closeness(mean(kl for kl, _ in rows), mean(top for _, top in rows), mean(same))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        models = options.models or Path(scratch)
        for name, found in measure(prepare(DEFAULT_MODEL, models), models, options.tokens).items():
            print(
                f"{name:20} mean KL {found.divergence:.5f}   same top token {found.same_top:.1%}"
                f"   alone as in company {found.same_alone:.1%}"
            )


if __name__ == "__main__":
    main()
