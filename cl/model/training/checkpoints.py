"""The state a training can be taken up from after a crash, in one file that is whole or not there."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from cl import files

# Characters of a sha256 at the end of the file: torch.load takes flipped bits for weights.
_SUM = 64


def digest(*parts: object) -> str:
    """Names what a checkpoint belongs to: another job or other data must not go on from it."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()


def save(path: Path, state: dict[str, Any]) -> None:
    aside = path.with_name(f"{files.TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with aside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            file.write(files.sha256(aside).encode())
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def load(path: Path, belongs_to: str) -> dict[str, Any] | None:
    """The state, if there is one of this very training."""
    if not path.is_file():
        return None
    whole = path.read_bytes()
    body, written = whole[:-_SUM], whole[-_SUM:]
    if hashlib.sha256(body).hexdigest().encode() != written:
        return None  # damaged since: the training starts anew
    state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    return state if state.get("belongs_to") == belongs_to else None
