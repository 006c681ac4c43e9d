"""Published folders: weights with a manifest of sizes and sha256 sums.

safetensors has no checksum of its own: a flipped bit loads as a wrong weight without a word. So
nothing is loaded before its manifest agrees, and every tensor of an adapter is looked at: one NaN
adapter gives plausible text, and wrong text.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from cl import files

MANIFEST = "manifest.json"
ADAPTER = "adapter_model.safetensors"
_NAME = re.compile(r"v\d{4,}")


class BadVersion(RuntimeError):
    """A folder is not what its manifest says; it must not be loaded."""


def write_manifest(folder: Path, **facts: Any) -> None:
    """List every file of the folder with its size and sum, beside the given facts."""
    listed = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": files.sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    files.write_json(folder / MANIFEST, {"files": listed, **facts})


def verify(folder: Path) -> Mapping[str, Any]:
    """The manifest, once every file agrees with it. Raises BadVersion with the first difference."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        listed: dict[str, dict[str, Any]] = manifest["files"]
    except FileNotFoundError:
        raise BadVersion(f"{folder} has no {MANIFEST}.") from None
    except (ValueError, KeyError, TypeError):
        raise BadVersion(f"{folder / MANIFEST} is damaged.") from None
    for name, expected in listed.items():
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise BadVersion(f"{folder / MANIFEST} names a file outside its folder: {name}.")
        if not path.is_file():
            raise BadVersion(f"{folder / name} is missing.")
        if path.stat().st_size != expected.get("size") or files.sha256(path) != expected.get(
            "sha256"
        ):
            raise BadVersion(
                f"{folder / name} is damaged: its sha256 is not the one in {MANIFEST}."
            )
    return dict(manifest)


def verify_adapter(folder: Path, base_sha256: str) -> Mapping[str, Any]:
    """`verify`, and: made for this base model, and every weight a finite number."""
    manifest = verify(folder)
    if manifest.get("base_sha256") != base_sha256:
        raise BadVersion(f"{folder} was trained for another base model.")
    try:
        with safe_open(folder / ADAPTER, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                if not np.isfinite(tensors.get_tensor(name)).all():
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

    def __init__(self, folder: Path, base_sha256: str) -> None:
        self.folder = folder
        self.base_sha256 = base_sha256

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
