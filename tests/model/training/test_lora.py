"""The adapter that learns: its gradients, its folders as peft and the engine read them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import GPT2Config, LlamaConfig, Qwen2Config, Qwen3Config

from cl.model.training.lora import Adapter
from cl.model.versions import ADAPTER, BadVersion
from tests.model.tiny_networks import (
    SMALL,
    apart,
    model_of,
    network_of,
    some_tokens,
    step_through,
    write_adapter,
)

pytestmark = [
    pytest.mark.slow,  # as everything that imports torch
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # peft
    pytest.mark.filterwarnings("ignore:The following (alpha|rank)_pattern keys"),
]

RANK, ALPHA = 3, 7
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "tied head": LlamaConfig(**{**SMALL, "tie_word_embeddings": True}),
    "biases": Qwen2Config(**SMALL),
    "norms of queries and keys": Qwen3Config(**SMALL, head_dim=8),
    "Conv1D": GPT2Config(
        **{**SMALL, "tie_word_embeddings": True}, n_inner=48, resid_pdrop=0, embd_pdrop=0
    ),
}
IDS = torch.tensor([some_tokens(17, seed) for seed in range(2)])
every_model = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def moved(model: Any, rank: int = RANK, seed: int = 1) -> Adapter:
    """An adapter that has learned something."""
    adapter = Adapter.attach(model, rank, ALPHA, seed)
    dice = torch.Generator().manual_seed(seed)
    state = adapter.state()
    for name in sorted(state):
        if "lora_B" in name:
            state[name] = 0.3 * torch.randn(state[name].shape, generator=dice)
    adapter.restore(state)
    return adapter


@torch.no_grad()
def logits(model: Any) -> Tensor:
    scores: Tensor = model(input_ids=IDS, use_cache=False).logits
    return scores


def gradients(model: Any, weights: list[Tensor]) -> list[Tensor]:
    scores = model(input_ids=IDS, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(scores[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    return list(torch.autograd.grad(loss, weights))


def furthest(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest relative distance between tensors that should be the same."""
    return max(
        float((a - b).norm() / b.norm().clamp(min=1e-30)) for a, b in zip(ours, theirs, strict=True)
    )


@every_model
def test_gradients_are_those_of_pefts_layers(config: Any, tmp_path: Path) -> None:
    model = model_of(config)
    adapter = moved(model)
    adapter.save(tmp_path, "base")
    theirs = PeftModel.from_pretrained(model_of(config), tmp_path, is_trainable=True).eval()
    named = {
        name.replace(".default", ""): weights
        for name, weights in theirs.named_parameters()
        if weights.requires_grad
    }
    assert set(named) == set(adapter.state())
    ours = gradients(model, adapter.parameters())
    assert furthest(ours, gradients(theirs, [named[name] for name in adapter.state()])) < 1e-4


@every_model
def test_peft_gives_a_saved_adapter_the_same_logits(config: Any, tmp_path: Path) -> None:
    model = model_of(config)
    moved(model).save(tmp_path, "base")
    theirs = PeftModel.from_pretrained(model_of(config), tmp_path).eval()
    assert torch.allclose(logits(model), logits(theirs), atol=1e-4)
    assert not torch.allclose(logits(model), logits(model_of(config)), atol=0.1)


@pytest.mark.parametrize("name", ["llama", "biases", "norms of queries and keys"])
def test_the_engine_serves_a_saved_adapter_as_it_was_trained(name: str, tmp_path: Path) -> None:
    model = model_of(CONFIGS[name])
    moved(model).save(tmp_path, "base")
    network = network_of(model_of(CONFIGS[name]))
    row = some_tokens(12)
    found = step_through(network, [row], ["new"], {"new": network.load_adapter(tmp_path)})
    assert apart(model, row, found[0]) < 1e-3


@every_model
def test_a_new_adapter_changes_nothing_yet_and_one_that_is_off_never_does(config: Any) -> None:
    model, base = model_of(config), logits(model_of(config))
    Adapter.attach(model, RANK, ALPHA, 0)
    assert torch.equal(logits(model), base)
    model = model_of(config)
    adapter = moved(model)
    with adapter.off():
        assert torch.equal(logits(model), base)
    assert not torch.equal(logits(model), base)


@every_model
def test_the_layers_are_those_peft_calls_all_linear(config: Any) -> None:
    ours = Adapter.attach(model_of(config), RANK, ALPHA, 0).state()
    wanted = LoraConfig(
        r=RANK,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        fan_in_fan_out=isinstance(config, GPT2Config),
    )
    theirs = get_peft_model(model_of(config), wanted)
    shapes = {n: p.shape for n, p in theirs.named_parameters() if p.requires_grad}
    assert {n.replace(".weight", ".default.weight"): p.shape for n, p in ours.items()} == shapes


def test_only_the_adapter_learns() -> None:
    model = model_of(CONFIGS["biases"])
    adapter = Adapter.attach(model, RANK, ALPHA, 0)
    learning = [weights for weights in model.parameters() if weights.requires_grad]
    assert {id(p) for p in learning} == {id(p) for p in adapter.parameters()}
    assert all(weights.dtype == torch.float32 for weights in learning)


def test_first_weights_depend_on_the_seed_alone() -> None:
    def drawn(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(torch.seed())
        return Adapter.attach(model_of(CONFIGS["llama"]), RANK, ALPHA, seed).state()

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name in first:
        limit = 0.0 if "lora_B" in name else first[name].shape[1] ** -0.5
        assert first[name].abs().max() <= limit
        assert "lora_B" in name or not torch.equal(first[name], other[name])


def test_the_same_weights_make_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        moved(model_of(CONFIGS["llama"])).save(tmp_path / folder, "base")
    for name in (ADAPTER, "adapter_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_what_an_optimizer_changes_counts_at_once_and_can_be_taken_back() -> None:
    model = model_of(CONFIGS["llama"])
    adapter = moved(model)
    before, state = logits(model), adapter.state()
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.1)
    for weights, gradient in zip(
        adapter.parameters(), gradients(model, adapter.parameters()), strict=True
    ):
        weights.grad = gradient
    optimizer.step()
    assert not torch.allclose(logits(model), before, atol=0.1)
    adapter.restore(state)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize(
    "lora",
    [
        {"r": 5, "lora_alpha": 3},
        {"r": 2, "lora_alpha": 4, "use_rslora": True},
        {"r": 2, "target_modules": ["q_proj", "down_proj"]},
        {"r": 2, "alpha_pattern": {"k_proj": 9}, "rank_pattern": {"up_proj": 3}},
    ],
    ids=["another rank", "rank-stabilised", "few layers", "patterns"],
)
def test_an_adapter_of_pefts_is_read_as_peft_reads_it(lora: dict[str, Any], tmp_path: Path) -> None:
    config = CONFIGS["llama"]
    write_adapter(config, tmp_path, seed=3, **lora)
    model = model_of(config)
    adapter = moved(model)
    state, before = adapter.state(), logits(model)
    adapter.load(tmp_path)
    theirs = PeftModel.from_pretrained(model_of(config), tmp_path).eval()
    assert torch.allclose(logits(model), logits(theirs), atol=1e-4)
    adapter.restore(state)
    assert torch.equal(logits(model), before)


def test_an_adapter_read_from_a_folder_can_be_saved_again(tmp_path: Path) -> None:
    model, other = model_of(CONFIGS["llama"]), model_of(CONFIGS["llama"])
    moved(model, rank=2).save(tmp_path / "one", "base")
    adapter = Adapter.attach(other, 6, 1.0, 0)
    adapter.load(tmp_path / "one")
    adapter.save(tmp_path / "two", "base")
    theirs = PeftModel.from_pretrained(model_of(CONFIGS["llama"]), tmp_path / "two").eval()
    assert torch.allclose(logits(theirs), logits(model), atol=1e-4)


def test_a_folder_that_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    model = model_of(CONFIGS["llama"])
    adapter = moved(model)
    before = logits(model)
    write_adapter(LlamaConfig(**{**SMALL, "hidden_size": 16}), tmp_path / "thin", 0)
    write_adapter(LlamaConfig(**{**SMALL, "num_hidden_layers": 3}), tmp_path / "deep", 0)
    write_adapter(CONFIGS["llama"], tmp_path / "dora", 0, use_dora=True)
    adapter.save(tmp_path / "torn", "base")
    (tmp_path / "torn" / ADAPTER).write_bytes(b"torn")
    for name in ("thin", "deep", "dora", "torn", "missing"):
        with pytest.raises(BadVersion, match=name):
            adapter.load(tmp_path / name)
    assert torch.equal(logits(model), before)


@torch.no_grad()
def test_how_far_the_model_was_moved_is_the_largest_update_beside_its_layer() -> None:
    model = model_of(CONFIGS["Conv1D"])
    adapter = moved(model)
    state, weights = adapter.state(), dict(model_of(CONFIGS["Conv1D"]).named_parameters())
    ratios = []
    for name, a in state.items():
        if name.endswith("lora_A.weight"):
            path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            update = state[name.replace("lora_A", "lora_B")] @ a * ALPHA / RANK
            ratios.append(float(update.norm() / weights[f"{path}.weight"].norm()))
    assert adapter.update_ratio() == pytest.approx(max(ratios), rel=1e-4)


def test_small_updates_are_not_lost_in_the_rounding_of_bf16_weights() -> None:
    model = model_of(CONFIGS["llama"], torch.bfloat16)
    adapter = moved(model)
    state = adapter.state()
    layer = model.model.layers[0].mlp.up_proj
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        base, weight = layer.matrix.float(), layer.lora_B * 1e-3
        wanted = (x.float() @ layer.lora_A.T @ weight.T) * (ALPHA / RANK)
        adapter.restore({n: t * 1e-3 if "lora_B" in n else t for n, t in state.items()})
        merged = (base + (weight @ layer.lora_A) * (ALPHA / RANK)).bfloat16()
        lost = (merged.float() - base) @ x.float().T
        # Beside the base's output the update is small: it is compared where the base says nothing.
        layer.weight.zero_()
        found = layer(x).float()
    assert (found - wanted).norm() < 0.01 * wanted.norm()
    assert (lost.T - wanted).norm() > 0.2 * wanted.norm()


def test_the_config_says_what_peft_needs(tmp_path: Path) -> None:
    moved(model_of(CONFIGS["llama"])).save(tmp_path, "some-base")
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "some-base"
    assert (config["r"], config["lora_alpha"]) == (RANK, ALPHA)
    assert config["target_modules"] == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
