"""Published folders: what is checked before a version may be loaded, and how it is published."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from cl.model.versions import (
    ADAPTER,
    MANIFEST,
    BadVersion,
    VersionStore,
    manifest_sha256,
    verify,
    verify_adapter,
    write_manifest,
)
from tests.fakes import BASE_SHA, write_adapter


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    write_adapter(tmp_path / "candidate", {"question": "answer"})
    return tmp_path / "candidate"


@pytest.fixture
def store(tmp_path: Path) -> VersionStore:
    return VersionStore(tmp_path / "models", BASE_SHA)


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / ADAPTER).read_bytes())
    content[-1] ^= 1
    (folder / ADAPTER).write_bytes(content)


def list_a_file_outside(folder: Path) -> None:
    (folder.parent / "secret").write_text("x")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["../secret"] = manifest["files"][ADAPTER]
    (folder / MANIFEST).write_text(json.dumps(manifest))


def write_something_else(folder: Path) -> None:
    (folder / ADAPTER).write_bytes(b"not safetensors")
    write_manifest(folder, base_sha256=BASE_SHA)


def leave_the_adapter_out(folder: Path) -> None:
    (folder / ADAPTER).unlink()
    write_manifest(folder, base_sha256=BASE_SHA)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed byte": (flip_a_byte, "safetensors is damaged: its sha256"),
    "cut off": (lambda f: (f / ADAPTER).write_bytes(b""), "safetensors is damaged: its sha256"),
    "missing file": (lambda f: (f / "learned.json").unlink(), "learned.json is missing"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "has no manifest.json"),
    "half a manifest": (lambda f: (f / MANIFEST).write_text("{"), "manifest.json is damaged"),
    "other manifest": (lambda f: (f / MANIFEST).write_text("[]"), "manifest.json is damaged"),
    "flipped key": (
        lambda f: (f / MANIFEST).write_text(
            (f / MANIFEST).read_text().replace('"sha256"', '"rha256"')
        ),
        "is damaged",
    ),
    "path outside": (list_a_file_outside, "a file outside its folder: ../secret"),
    "not safetensors": (write_something_else, "cannot be read"),
    "no adapter": (leave_the_adapter_out, "safetensors cannot be read"),
    "other base": (lambda f: write_manifest(f, base_sha256="c" * 64), "for another base model"),
}


@pytest.mark.parametrize(("damage", "problem"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_folder_that_is_not_whole_is_refused_and_nothing_is_published(
    store: VersionStore, candidate: Path, damage: Callable[[Path], object], problem: str
) -> None:
    damage(candidate)
    with pytest.raises(BadVersion, match=problem):
        store.publish(candidate, "v0001")
    assert not store.folder.exists()


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_an_adapter_with_a_weight_that_is_no_number_is_refused(
    tmp_path: Path, weight: float
) -> None:
    write_adapter(tmp_path / "candidate", {}, weight)
    with pytest.raises(BadVersion, match=r"lora_A\.weight holds values that are not finite"):
        verify_adapter(tmp_path / "candidate", BASE_SHA)


def test_the_manifest_keeps_the_facts_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"123")
    write_manifest(tmp_path, seed=7)
    manifest = verify(tmp_path)
    assert manifest["seed"] == 7
    assert manifest["files"]["weights"]["size"] == 3


def test_a_version_is_published_whole_under_the_sum_of_its_manifest(
    store: VersionStore, candidate: Path
) -> None:
    assert store.publish(candidate, "v0001") == manifest_sha256(candidate)
    assert store.check("v0001") == manifest_sha256(candidate)
    assert [path.name for path in store.folder.iterdir()] == ["v0001"]


def test_publishing_the_same_version_again_changes_nothing(
    store: VersionStore, candidate: Path
) -> None:
    first = store.publish(candidate, "v0001")
    written = store.path("v0001").stat().st_mtime_ns
    assert store.publish(candidate, "v0001") == first
    assert store.path("v0001").stat().st_mtime_ns == written


@pytest.mark.parametrize("has_manifest", [True, False])
def test_what_a_crash_left_under_the_name_is_replaced(
    store: VersionStore, candidate: Path, has_manifest: bool
) -> None:
    write_adapter(store.path("v0001"), {"from": "before the crash"}, weight=2.0)
    if not has_manifest:
        (store.path("v0001") / MANIFEST).unlink()
    assert store.publish(candidate, "v0001") == manifest_sha256(candidate)
    assert json.loads((store.path("v0001") / "learned.json").read_text()) == {"question": "answer"}


def test_a_version_damaged_after_it_was_published_is_noticed(
    store: VersionStore, candidate: Path
) -> None:
    store.publish(candidate, "v0001")
    flip_a_byte(store.path("v0001"))
    with pytest.raises(BadVersion, match="damaged"):
        store.check("v0001")


@pytest.mark.parametrize("name", ["", "base", "v1", "V0001", "v0001/..", "../v0001", "v0001\n"])
def test_only_version_names_lead_to_a_folder(store: VersionStore, name: str) -> None:
    with pytest.raises(LookupError, match="is not the name of a version"):
        store.path(name)
