"""Two hundred damaged versions: none is loaded, and who is loaded goes on answering as before.

Each is a copy of a version the real trainer made, damaged at a place that dice choose. Where the
manifest was written anew over the damage, only a look at the contents can tell.
"""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cl import files
from cl.model.base_model import BaseModel
from cl.model.engine.embedded import EmbeddedEngine
from cl.model.trainer import Training
from cl.model.training.child import Job, Reporter
from cl.model.versions import ADAPTER, CONFIG, MANIFEST, BadVersion, VersionStore, write_manifest
from cl.records import BASE
from tests.model.talking import ask, said, started
from tests.model.training.sets import OPTIONS, write_set

PAGE = 512
LAYER = "base_model.model.model.layers.0"
Damage = Callable[[Path, random.Random], None]


@pytest.fixture(scope="module")
def store(tiny: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> VersionStore:
    """Holds v0001, as the trainer made it."""
    folder = tmp_path_factory.mktemp("mutated")
    job = Job(tiny, write_set(folder / "data"), None, OPTIONS, 0, folder / "run")
    job.folder.mkdir()
    Training(job, Reporter(job.folder)).run()
    store = VersionStore(folder / "models", tiny.sha256)
    store.publish(job.candidate, "v0001")
    return store


@pytest.fixture(scope="module")
def engine(tiny: BaseModel, store: VersionStore) -> Iterator[EmbeddedEngine]:
    with started(tiny, store) as engine:
        engine.ensure("v0001")
        yield engine


@contextmanager
def copied(store: VersionStore) -> Iterator[str]:
    """A copy of v0001 to be damaged, under another name."""
    shutil.copytree(store.path("v0001"), store.path("v0002"))
    try:
        yield "v0002"
    finally:
        shutil.rmtree(store.path("v0002"))


# -- damage the sums tell ----------------------------------------------------------------------


def _flip(path: Path, dice: random.Random, first: int, end: int) -> None:
    content = bytearray(path.read_bytes())
    content[dice.randrange(first, end)] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def _header(folder: Path) -> int:
    """Where the weights begin."""
    return 8 + int.from_bytes((folder / ADAPTER).read_bytes()[:8], "little")


def cut(name: str) -> Damage:
    def damage(folder: Path, dice: random.Random) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: dice.randrange(len(content) - 2)])

    return damage


def flip_in_header(folder: Path, dice: random.Random) -> None:
    _flip(folder / ADAPTER, dice, 0, _header(folder))


def flip_in_weights(folder: Path, dice: random.Random) -> None:
    _flip(folder / ADAPTER, dice, _header(folder), (folder / ADAPTER).stat().st_size)


def flip_in_config(folder: Path, dice: random.Random) -> None:
    _flip(folder / CONFIG, dice, 0, (folder / CONFIG).stat().st_size)


def flip_in_manifest(folder: Path, dice: random.Random) -> None:
    """In what vouches for the files; the options and the result beside it are only told to people."""
    text = (folder / MANIFEST).read_bytes()
    parts = ((b'"base_sha256"', b'"files"'), (b'"files"', b'"options"'))
    first, end = (text.index(part) for part in dice.choice(parts))
    _flip(folder / MANIFEST, dice, first, text.rindex(b",", first, end))


def zero_a_page(folder: Path, dice: random.Random) -> None:
    content = bytearray((folder / ADAPTER).read_bytes())
    page = dice.randrange(len(content) // PAGE) * PAGE
    assert any(content[page : page + PAGE])
    content[page : page + PAGE] = bytes(PAGE)
    (folder / ADAPTER).write_bytes(content)


def lose_a_file(folder: Path, dice: random.Random) -> None:
    (folder / dice.choice([ADAPTER, CONFIG, MANIFEST])).unlink()


def link_outside(folder: Path, dice: random.Random) -> None:
    """The very same content, but where others may write."""
    name = dice.choice([ADAPTER, CONFIG])
    outside = folder.parent / f"outside-{dice.random()}"
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside)


def forget_in_manifest(folder: Path, dice: random.Random) -> None:
    """Files that nothing vouches for, one of them damaged."""
    flip_in_weights(folder, dice)
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"][ADAPTER]
    files.write_json(folder / MANIFEST, manifest)


def forget_the_config(folder: Path, dice: random.Random) -> None:
    config = json.loads((folder / CONFIG).read_text())
    files.write_json(folder / CONFIG, {**config, "lora_alpha": dice.randint(100, 1000)})
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"][CONFIG]
    files.write_json(folder / MANIFEST, manifest)


def another_manifest(folder: Path, dice: random.Random) -> None:
    """JSON, but nothing a manifest is made of."""
    manifest = json.loads((folder / MANIFEST).read_text())
    name = dice.choice(list(manifest["files"]))
    odd = [[], None, "all", {name: None}, {name: "whole"}, {name: []}, {"": {}}]
    wrong = [*({**manifest, "files": value} for value in odd), [], None, 7]
    files.write_json(folder / MANIFEST, dice.choice(wrong))


# -- damage behind a manifest that agrees with it ----------------------------------------------


def sealed(damage: Callable[[Path, random.Random], object]) -> Damage:
    """The manifest is written anew after the damage."""

    def do(folder: Path, dice: random.Random) -> None:
        base = json.loads((folder / MANIFEST).read_text())["base_sha256"]
        damage(folder, dice)
        write_manifest(folder, base_sha256=base)

    return do


def tensors(change: Callable[[dict[str, Tensor], str, random.Random], object]) -> Damage:
    """Change the tensors, starting from any of them."""

    def damage(folder: Path, dice: random.Random) -> None:
        found = load_file(folder / ADAPTER)
        change(found, dice.choice(sorted(found)), dice)
        save_file({name: t.contiguous() for name, t in found.items()}, folder / ADAPTER)

    return sealed(damage)


def plant(found: dict[str, Tensor], name: str, dice: random.Random) -> None:
    value = dice.choice([float("nan"), float("inf"), float("-inf")])
    found[name].view(-1)[dice.randrange(found[name].numel())] = value


def reshape(found: dict[str, Tensor], name: str, dice: random.Random) -> None:
    t = found[name]
    shapes: list[Tensor] = [
        t.T,
        t[:-1],
        t[:, :-1],
        torch.cat([t, t[:1]]),
        torch.cat([t, t[:, :1]], 1),
        t.flatten(),
        t[None],
        t[:0],
        t[:, :0],
        t.reshape(2, -1),
    ]
    found[name] = dice.choice(shapes)


def add(found: dict[str, Tensor], name: str, dice: random.Random) -> None:
    extra = [
        f"{LAYER}.self_attn.x_proj.lora_A.weight",
        f"{LAYER}.self_attn.q_proj.lora_C.weight",
        f"{LAYER}.self_attn.q_proj.bias",
        f"{LAYER}.input_layernorm.weight",
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.embed_tokens.weight",
        name.replace(".layers.", ".layers.1"),
        name.removeprefix("base_model."),
        "x",
    ]
    found[dice.choice(extra)] = found[name].clone()


def retype(found: dict[str, Tensor], name: str, dice: random.Random) -> None:
    kinds = [torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.int64, torch.bool]
    found[name] = found[name].to(dice.choice(kinds))


def not_low_rank(folder: Path, dice: random.Random) -> None:
    changes: list[dict[str, object]] = [
        {"use_dora": True},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"peft_type": "LOHA"},
        {"lora_alpha": "much"},
        {"lora_alpha": float("nan")},
        {"lora_alpha": float("inf")},
    ]
    config = json.loads((folder / CONFIG).read_text())
    files.write_json(folder / CONFIG, {**config, **dice.choice(changes)})


def another_base(folder: Path, dice: random.Random) -> None:
    write_manifest(folder, base_sha256=dice.randbytes(32).hex())


def lose_for_good(folder: Path, dice: random.Random) -> None:
    (folder / dice.choice([ADAPTER, CONFIG])).unlink()


KINDS: dict[str, tuple[int, Damage]] = {
    "weights cut off": (12, cut(ADAPTER)),
    "config cut off": (8, cut(CONFIG)),
    "manifest cut off": (10, cut(MANIFEST)),
    "bit in the header": (15, flip_in_header),
    "bit in the weights": (20, flip_in_weights),
    "bit in the config": (10, flip_in_config),
    "bit in the manifest": (20, flip_in_manifest),
    "zeroed page": (12, zero_a_page),
    "file lost": (5, lose_a_file),
    "link outside": (4, link_outside),
    "weights not in the manifest": (3, forget_in_manifest),
    "config not in the manifest": (3, forget_the_config),
    "another manifest": (12, another_manifest),
    "sealed, not finite": (15, tensors(plant)),
    "sealed, another shape": (15, tensors(reshape)),
    "sealed, a tensor more": (12, tensors(add)),
    "sealed, a tensor less": (4, tensors(lambda found, name, dice: found.pop(name))),
    "sealed, another type": (10, tensors(retype)),
    "sealed, another config": (6, sealed(not_low_rank)),
    "sealed, file lost": (2, sealed(lose_for_good)),
    "sealed, another base": (2, another_base),
}


def test_there_are_two_hundred_of_them() -> None:
    assert sum(count for count, _ in KINDS.values()) == 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_version_is_never_loaded_and_the_others_go_on_answering(
    engine: EmbeddedEngine, store: VersionStore, kind: str
) -> None:
    asked = said("Who opens the archive?")
    before = [ask(engine, asked, version)[0] for version in (BASE, "v0001")]
    dice, (count, damage) = random.Random(kind), KINDS[kind]
    for _ in range(count):
        with copied(store) as bad:
            damage(store.path(bad), dice)
            with pytest.raises(BadVersion):
                engine.ensure(bad)
            assert engine.loaded() == [BASE, "v0001"]
    assert [ask(engine, asked, version)[0] for version in (BASE, "v0001")] == before


def test_a_fact_changed_in_a_manifest_shows_in_the_sum_of_the_version(store: VersionStore) -> None:
    with copied(store) as changed:
        path = store.path(changed) / MANIFEST
        files.write_json(path, {**json.loads(path.read_text()), "seed": 1})
        assert store.check(changed) != store.check("v0001")
