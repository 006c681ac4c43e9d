"""Adapters as data: every version in a batch computes what peft makes of it, or is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

from cl.model.engine.network import Network
from cl.model.versions import ADAPTER, BadVersion
from tests.model.tiny_networks import (
    SMALL,
    apart,
    model_of,
    network_of,
    some_tokens,
    step_through,
    with_adapter,
    write_adapter,
)

CLOSE = 1e-3  # rounding differs from processor to processor, by up to 1e-4 here
LLAMA = hf.LlamaConfig(**SMALL)


@pytest.fixture(scope="module")
def network() -> Network:
    return network_of(model_of(LLAMA))


KINDS: dict[str, dict[str, Any]] = {
    "all projections": {},
    "rank-stabilized": {"use_rslora": True},
    "attention only": {"target_modules": ["q_proj", "v_proj"]},
    "middle of the three": {"target_modules": ["k_proj"]},
    "block only": {"target_modules": ["up_proj", "down_proj"]},
    "one layer": {"layers_to_transform": [1]},
    "ranks of their own": {
        "rank_pattern": {"q_proj": 1, "down_proj": 7, r"layers\.1\..*k_proj": 5}
    },
    "strengths of their own": {"alpha_pattern": {"q_proj": 20, "down_proj": 1}},
    "strengths by path": {
        "alpha_pattern": {"self_attn.q_proj": 20, r"model.layers.1.mlp.up_proj": 15}
    },
    "strengths by pattern": {"alpha_pattern": {r"layers\.0\..*_proj": 12, "[kv]_proj": 30}},
    "strengths, the first that fits": {
        "alpha_pattern": {"layers.0.self_attn.v_proj": 20, "v_proj": 1}
    },
    "strengths that only look alike": {"alpha_pattern": {"proj": 50, "p_proj": 50}},
    "ranks, rank-stabilized": {"use_rslora": True, "rank_pattern": {"o_proj": 9}},
    "no strength": {"lora_alpha": 0},
    "more ranks than inputs": {"r": 40},
}


@pytest.mark.filterwarnings("ignore:The following alpha_pattern keys")
@pytest.mark.parametrize("kind", KINDS)
def test_a_version_computes_what_peft_makes_of_it(
    network: Network, tmp_path: Path, kind: str
) -> None:
    write_adapter(LLAMA, tmp_path, 1, **KINDS[kind])
    adapted = with_adapter(LLAMA, tmp_path)
    row, adapters = some_tokens(30), {"v0001": network.load_adapter(tmp_path)}
    found = step_through(network, [row], ["v0001"], adapters)[0]
    assert apart(adapted, row, found) < CLOSE


@pytest.mark.parametrize(
    "config",
    [
        hf.LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
        hf.Qwen3Config(**SMALL, head_dim=16),
    ],
    ids=["biases", "other heads"],
)
def test_versions_of_other_families_do_so_too(tmp_path: Path, config: Any) -> None:
    network = network_of(model_of(config))
    write_adapter(config, tmp_path, 1)
    adapted = with_adapter(config, tmp_path)
    row, adapters = some_tokens(30), {"v0001": network.load_adapter(tmp_path)}
    found = step_through(network, [row], ["v0001"], adapters)[0]
    assert apart(adapted, row, found) < CLOSE


def test_versions_mix_in_one_batch_and_each_is_as_it_is_alone(
    network: Network, tmp_path: Path
) -> None:
    """The base and two versions, six rows in no order; pieces of prompts beside single tokens."""
    models = {"base": model_of(LLAMA)}
    for seed, version in enumerate(("v0001", "v0002"), start=1):
        write_adapter(LLAMA, tmp_path / version, seed, r=2 * seed)
        models[version] = with_adapter(LLAMA, tmp_path / version)
    adapters = {v: network.load_adapter(tmp_path / v) for v in ("v0001", "v0002")}
    versions = ["v0002", "base", "v0001", "v0001", "base", "v0002"]
    rows = [some_tokens(20 + 5 * i, i) for i in range(6)]
    found = step_through(network, rows, versions, adapters)
    for row, version, logits in zip(rows, versions, found, strict=True):
        assert apart(models[version], row, logits) < CLOSE
    assert apart(models["base"], rows[0], found[0]) > 0.1  # the version makes a difference


# -- what is refused ---------------------------------------------------------------------------


def changed_config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def changed_tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        tensors = load_file(folder / ADAPTER)
        change(tensors)
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / ADAPTER)

    return write


LAYER = "base_model.model.model.layers.0"
A, B = f"{LAYER}.self_attn.q_proj.lora_A.weight", f"{LAYER}.self_attn.q_proj.lora_B.weight"
DAMAGE: dict[str, Callable[[Path], None]] = {
    "DoRA": changed_config(use_dora=True),
    "another kind": changed_config(peft_type="LOHA"),
    "biases": changed_config(bias="lora_only"),
    "biases of adapters": changed_config(lora_bias=True),
    "whole modules": changed_config(modules_to_save=["lm_head"]),
    "new tokens": changed_config(trainable_token_indices=[5]),
    "layers repeated": changed_config(layer_replication=[[0, 2], [0, 2]]),
    "only after some tokens": changed_config(alora_invocation_tokens=[5, 6]),
    "blocks": changed_config(use_bdlora={"target_modules_bd_a": ["q_proj"]}),
    "turned": changed_config(fan_in_fan_out=True),
    "A of another size": changed_tensors(lambda t: t.update({A: torch.zeros(4, 33)})),
    "B of another size": changed_tensors(lambda t: t.update({B: torch.zeros(33, 4)})),
    "B of another rank": changed_tensors(lambda t: t.update({B: torch.zeros(32, 5)})),
    "A without B": changed_tensors(lambda t: t.pop(B)),
    "B without A": changed_tensors(lambda t: t.pop(A)),
    "no rank": changed_tensors(lambda t: t.update({A: torch.zeros(0, 32), B: torch.zeros(32, 0)})),
    "no matrix": changed_tensors(lambda t: t.update({A: torch.zeros(32)})),
    "one layer too many": changed_tensors(lambda t: t.update({A.replace(".0.", ".2."): t[A]})),
    "an unknown projection": changed_tensors(lambda t: t.update({A.replace("q_p", "x_p"): t[A]})),
    "the head": changed_tensors(
        lambda t: t.update({"base_model.model.lm_head.lora_A.weight": t[A]})
    ),
    "a bias": changed_tensors(lambda t: t.update({f"{LAYER}.self_attn.q_proj.bias": t[A][0]})),
    "no settings": lambda folder: (folder / "adapter_config.json").unlink(),
    "damaged settings": lambda folder: (folder / "adapter_config.json").write_text("{") and None,
    "no weights": lambda folder: (folder / ADAPTER).unlink(),
    "damaged weights": lambda folder: (folder / ADAPTER).write_bytes(b"\0" * 100) and None,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_an_adapter_that_is_more_or_less_than_low_rank_updates_is_refused(
    network: Network, tmp_path: Path, how: str
) -> None:
    write_adapter(LLAMA, tmp_path, 1)
    DAMAGE[how](tmp_path)
    with pytest.raises(BadVersion, match="does not fit the base model"):
        network.load_adapter(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # peft's, about what it writes there
def test_what_peft_itself_writes_beyond_low_rank_is_refused(
    network: Network, tmp_path: Path
) -> None:
    for number, more in enumerate(
        (
            {"use_dora": True},
            {"modules_to_save": ["lm_head"]},
            {"lora_bias": True},
            {"trainable_token_indices": [3, 4]},
            {"target_modules": ["q_proj", "lm_head"]},
        )
    ):
        write_adapter(LLAMA, tmp_path / str(number), 1, **more)
        with pytest.raises(BadVersion):
            network.load_adapter(tmp_path / str(number))


def test_an_adapter_of_a_larger_model_is_refused(network: Network, tmp_path: Path) -> None:
    write_adapter(hf.LlamaConfig(**{**SMALL, "hidden_size": 64}), tmp_path, 1)
    with pytest.raises(BadVersion):
        network.load_adapter(tmp_path)
