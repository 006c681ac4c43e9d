"""Tiny random models of many families, adapters around them, and their logits step by step.

Weights are drawn wide, norms and biases too: whatever is left out or computed differently shows.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from cl.model.base_model import quiet_transformers
from cl.model.engine.adapters import Adapter
from cl.model.engine.batch import Batch, Feed
from cl.model.engine.network import Network, read, refuse_other_builds
from cl.model.engine.ops import TorchOps

VOCABULARY = 96
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOGETHER = ((7, 5, 3), (11,), (1, 2), (16, 9))  # how the prompts of rows are cut into pieces


def model_of(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim == 1:
                weights += 0.2 * torch.randn_like(weights)
    return model.to(dtype)


def network_of(model: Any, ops: TorchOps | None = None, context: int = 1024) -> Network:
    """As the engine makes it. Raises NotLlamaLike."""
    refuse_other_builds(model)
    return read(model, ops or TorchOps(model.dtype), context=context)


def some_tokens(count: int, seed: int = 0) -> list[int]:
    dice = random.Random(seed)
    return [dice.randrange(VOCABULARY) for _ in range(count)]


def step_through(
    network: Network,
    rows: Sequence[Sequence[int]],
    versions: Sequence[str] = (),
    adapters: Mapping[str, Adapter] | None = None,
) -> list[dict[int, Tensor]]:
    """For each row, the logits after so many of its tokens.

    Prompts go in pieces of odd sizes, then token by token, all rows in one batch: pieces of some
    stand beside single tokens of others.
    """
    cache = network.new_cache(len(rows) + 1)
    found: list[dict[int, Tensor]] = [{} for _ in rows]
    pieces = [list(TOGETHER[i % len(TOGETHER)]) for i in range(len(rows))]
    while any(len(cache.slots[slot].tokens) < len(row) for slot, row in enumerate(rows)):
        feeds, due = [], []
        for slot, row in enumerate(rows):
            done = len(cache.slots[slot].tokens)
            tokens = list(row[done : done + (pieces[slot].pop(0) if pieces[slot] else 1)])
            if tokens:
                version = versions[slot] if versions else "base"
                feeds.append(Feed(slot, version, tokens, done, wants_next=True))
                due.append((slot, done + len(tokens)))
        logits = network.forward(Batch(feeds, network.device), cache, dict(adapters or {}))
        for feed, (slot, count), row_logits in zip(feeds, due, logits, strict=True):
            cache.slots[slot].tokens += feed.tokens
            found[slot][count] = row_logits
    return found


@torch.inference_mode()
def apart(model: Any, row: Sequence[int], found: Mapping[int, Tensor]) -> float:
    """The largest difference between these logits of a row and those transformers gives it."""
    theirs = model(input_ids=torch.tensor([row]), use_cache=False).logits[0].float()
    assert max(found) == len(row)
    return max(float((theirs[count - 1] - ours).abs().max()) for count, ours in found.items())


def write_adapter(config: Any, folder: Path, seed: int, **lora: Any) -> None:
    """A random adapter in peft's own format."""
    quiet_transformers()
    wanted = {"r": 4, "lora_alpha": 6, "target_modules": PROJECTIONS, **lora}
    adapted = get_peft_model(model_of(config), LoraConfig(task_type="CAUSAL_LM", **wanted))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_" in name:
                weights.copy_(0.3 * torch.randn_like(weights))
    adapted.save_pretrained(folder)


def with_adapter(config: Any, folder: Path) -> Any:
    """What peft makes of it."""
    return PeftModel.from_pretrained(model_of(config), folder).eval()
