"""Published folders: weights with a manifest of sizes and sha256 sums.

safetensors has no checksum of its own: a flipped bit loads as a wrong weight without a word. So
nothing is loaded before its manifest agrees, and every tensor of an adapter is looked at: one NaN
adapter gives plausible text, and wrong text.
"""

import json
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from cl import files

MANIFEST = "manifest.json"
ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_NAME = re.compile(r"v\d{4,}")


class BadVersion(RuntimeError):
    """A folder is not what its manifest says; it must not be loaded."""


def write_manifest(folder: Path, *, without: Collection[str] = (), **facts: Any) -> None:
    """List every file of the folder with its size and sum, beside the given facts."""
    listed = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": files.sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, *without)
    }
    files.write_json(folder / MANIFEST, {"files": listed, **facts})


def add_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Put these files beside the others and into the manifest, whose facts stay."""
    facts = {name: value for name, value in verify(folder).items() if name != "files"}
    # Where a crash left them, they are replaced: half done, the manifest must not disagree.
    write_manifest(folder, without=texts, **facts)
    for name, text in texts.items():
        files.write_text(folder / name, text)
    write_manifest(folder, **facts)


def verify(folder: Path) -> Mapping[str, Any]:
    """The manifest, once every file agrees with it. Raises BadVersion with the first difference."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        listed = {name: (one["size"], one["sha256"]) for name, one in manifest["files"].items()}
    except FileNotFoundError:
        raise BadVersion(f"{folder} has no {MANIFEST}.") from None
    except (AttributeError, ValueError, KeyError, TypeError):
        raise BadVersion(f"{folder / MANIFEST} is damaged.") from None
    for name, (size, sha256) in listed.items():
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise BadVersion(f"{folder / MANIFEST} names a file outside its folder: {name}.")
        if not path.is_file():
            raise BadVersion(f"{folder / name} is missing.")
        if path.stat().st_size != size or files.sha256(path) != sha256:
            raise BadVersion(
                f"{folder / name} is damaged: its sha256 is not the one in {MANIFEST}."
            )
    return dict(manifest)


def verify_adapter(folder: Path, base_sha256: str) -> Mapping[str, Any]:
    """`verify`, and: made for this base model, every weight a finite float32, as the trainer writes it."""
    manifest = verify(folder)
    if manifest.get("base_sha256") != base_sha256:
        raise BadVersion(f"{folder} was trained for another base model.")
    for name in (ADAPTER, CONFIG):
        if (folder / name).exists() and name not in manifest["files"]:
            raise BadVersion(f"{folder / MANIFEST} does not vouch for {name}.")
    try:
        with safe_open(folder / ADAPTER, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                tensor = tensors.get_tensor(name)
                if tensor.dtype != np.float32:
                    raise BadVersion(f"{folder / ADAPTER}: {name} is {tensor.dtype}, not float32.")
                if not np.isfinite(tensor).all():
                    raise BadVersion(
                        f"{folder / ADAPTER}: {name} holds values that are not finite."
                    )
    except (SafetensorError, OSError, TypeError) as problem:  # TypeError: numpy has no bfloat16
        raise BadVersion(f"{folder / ADAPTER} cannot be read: {problem}.") from None
    return manifest


def manifest_sha256(folder: Path) -> str:
    """The sum that stands for the whole folder; empty where there is no manifest."""
    path = folder / MANIFEST
    return files.sha256(path) if path.is_file() else ""


class VersionStore:
    """Where published adapters lie: one folder a version, never changed, never used twice."""

    def __init__(self, folder: Path, base_sha256: str, base: str = "") -> None:
        """`base` is what people call the base model: its hub id, package or folder."""
        self.folder = folder
        self.base_sha256 = base_sha256
        self.base = base

    def path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise LookupError(f"{name!r} is not the name of a version.")
        return self.folder / name

    def publish(self, candidate: Path, name: str) -> str:
        """Copy a checked candidate to its final place. Returns the sha256 of its manifest.

        Called for a name no row knows yet, so a folder already there was left by a crash: the
        same one is kept, another one is replaced.
        """
        verify_adapter(candidate, self.base_sha256)
        final = self.path(name)
        if final.exists() and manifest_sha256(final) != manifest_sha256(candidate):
            shutil.rmtree(final)
        if not final.exists():
            with files.new_folder(final) as aside:
                for path in candidate.iterdir():
                    (aside / path.name).write_bytes(path.read_bytes())
        return self.check(name)

    def check(self, name: str) -> str:
        """Raises BadVersion unless the version is whole. Returns the sha256 of its manifest."""
        verify_adapter(self.path(name), self.base_sha256)
        return manifest_sha256(self.path(name))
