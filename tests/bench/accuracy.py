"""How close the engine comes to transformers in float32, token by token.

    python -m tests.bench.accuracy [--models DIR] [--tokens 64]

The same texts are read by both, each row with its version, base and two versions mixed in one batch
of eight. Prints the mean Kullback-Leibler divergence (nats a token) of the next token's
distribution and the share of positions with the same likeliest token, for each stage; and how often
a row finds the same token alone as in company. transformers in bf16 is measured beside them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
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


def measure(models: Path, tokens: int) -> None:
    quiet_transformers()
    base = prepare(DEFAULT_MODEL, models)
    write_versions(base, models)

    def whole(dtype: torch.dtype) -> dict[str, Any]:
        plain = {
            v: AutoModelForCausalLM.from_pretrained(base.folder, dtype=dtype).eval()
            for v in set(VERSIONS)
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
    rows = [apart(wanted[i], reference(rounded[v], *told[i])) for i, v in enumerate(VERSIONS)]
    show("transformers bf16", rows)
    model = rounded["base"]
    first = model.model.layers[0].self_attn
    group = first.q_proj.out_features // first.k_proj.out_features
    stages = {
        "compiled": compiled(first.head_dim, group, models),
        "compiled int8": compiled(first.head_dim, group, models, int8=True),
        "prepacked": TorchOps(torch.bfloat16),
    }
    for name, ops in stages.items():
        network = read(model, ops, context=2048)
        together = forced(network, range(len(VERSIONS)), told, models)
        same = []
        for row in range(len(VERSIONS)):
            alone = forced(network, [row], told, models)[row]
            same.append(float((alone.argmax(-1) == together[row].argmax(-1)).float().mean()))
        show(name, [apart(wanted[i], together[i]) for i in range(len(VERSIONS))])
        print(f"{'':20} alone as in company: {100 * sum(same) / len(same):.1f} % of positions")


def show(name: str, rows: list[tuple[float, float]]) -> None:
    kl, top = (sum(column) / len(column) for column in zip(*rows, strict=True))
    print(
        f"{name:20} mean KL {kl:.5f}   same top token {100 * top:.1f} %   worst row KL {max(r[0] for r in rows):.5f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        measure(options.models or Path(scratch), options.tokens)


if __name__ == "__main__":
    main()
