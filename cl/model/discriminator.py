"""The discriminator: the chance that a person gives an answer a thumb up.

A small model over the reader's numbers, trained on people's thumbs alone. How much it may use
grows with the number of labels (`cl.model.discriminator_training`):

    prior   too few labels: the share of thumbs up, drawn towards one half; rules order the answers
    text    from 20 labels: what can be counted in the text, and its words
    full    from 100 labels, 20 of each kind: all of the reader's numbers

Where two answers to the same question got different thumbs, it also learns from the difference of
the two (Bradley, Terry 1952): what the question contributes then cancels out.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cl import files
from cl.model.base_model import prepare
from cl.model.discriminator_training import (
    MUST_EXCEED,
    Head,
    Report,
    Tell,
    checked,
    learn,
    stage_for,
)
from cl.model.reader import Pair, Reader
from cl.records import Message
from cl.rules.calibration import Calibration, Numbers
from cl.settings import load_settings

__all__ = ["MUST_EXCEED", "Discriminator", "Example", "Report", "stage_for", "train", "train_on"]

Example = tuple[list[Message], str, int, str]  # conversation, answer, +1 or -1, group

_FILES = ("head.json", "head.npz")


class Discriminator:
    """A trained scorer. It never changes; `name` says which one it is."""

    def __init__(
        self,
        name: str,
        stage: str,
        report: Report,
        head: Head,
        calibration: Calibration,
        reader: Reader | None = None,
    ) -> None:
        self.name, self.stage, self.report = name, stage, report
        self._head, self._calibration, self._reader = head, calibration, reader

    @property
    def may_select(self) -> bool:
        """Whether it was shown to tell good answers from bad ones."""
        low = self.report.auc_low
        return self.stage != "prior" and low is not None and low > MUST_EXCEED

    @property
    def sha256(self) -> str:
        """Names everything that decides a score."""
        digest = hashlib.sha256(self._description().encode())
        for _, values in sorted(self._arrays().items()):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def score(self, pairs: Sequence[Pair]) -> Numbers:
        """The chance of a thumb up for each (conversation, answer): (n,)."""
        if not len(pairs):
            return np.empty(0)
        if self._reader is None:
            self._reader = _installed_reader()
        return self.score_features(self._reader.read(pairs))

    def score_features(self, features: NDArray[Any]) -> Numbers:
        """The same from the reader's numbers, (n, size), fresh or stored as float16."""
        if not len(features):
            return np.empty(0)
        if features.shape[1] != len(self._head.mean):
            raise ValueError(
                f"{self.name} was trained on {len(self._head.mean)} numbers an answer, "
                f"these have {features.shape[1]}: another base model or reader made them."
            )
        return np.clip(self._calibration(self._head(features)), 0.0, 1.0)

    def save(self, folder: Path) -> None:
        """Write a new folder; the same training writes the same bytes."""
        with files.new_folder(folder) as aside:
            files.write_text(aside / _FILES[0], self._description())
            np.savez(aside / _FILES[1], allow_pickle=False, **self._arrays())

    @classmethod
    def load(cls, folder: Path, reader: Reader | None = None) -> "Discriminator":
        said = json.loads((folder / _FILES[0]).read_text(encoding="utf-8"))
        with np.load(folder / _FILES[1], allow_pickle=False) as a:
            head = Head(a["mean"], a["scale"], a["weights"])
            curve = Calibration(said["slope"], said["offset"], a["at"], a["chances"])
        return cls(said["name"], said["stage"], Report(**said["report"]), head, curve, reader)

    def _description(self) -> str:
        said = {
            "name": self.name,
            "stage": self.stage,
            "report": asdict(self.report),
            "slope": self._calibration.slope,
            "offset": self._calibration.offset,
        }
        return json.dumps(said, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    def _arrays(self) -> dict[str, Numbers]:
        head, curve = self._head, self._calibration
        return {
            "mean": head.mean,
            "scale": head.scale,
            "weights": head.weights,
            "at": curve.at,
            "chances": curve.chances,
        }


def train(
    examples: Sequence[Example],
    *,
    reader: Reader | None = None,
    name: str = "scorer-0001",
    seed: int = 0,
    tell: Tell = lambda text, done, of: None,
) -> Discriminator:
    """A scorer from texts with thumbs. Without a reader this installation's base model reads."""
    labels = [label for _, _, label, _ in examples]
    checked(labels)
    reader = reader or _installed_reader()
    features = reader.read(
        [(conversation, answer) for conversation, answer, _, _ in examples], tell
    )
    groups = [group for _, _, _, group in examples]
    made = train_on(features, labels, groups, name=name, seed=seed, tell=tell)
    made._reader = reader
    return made


def train_on(
    features: NDArray[Any],
    labels: Sequence[int],
    groups: Sequence[str],
    *,
    name: str = "scorer-0001",
    seed: int = 0,
    tell: Tell = lambda text, done, of: None,
) -> Discriminator:
    """A scorer from the reader's numbers (n, size), labels +1 or -1, and a group for each row.

    Rows of one group stay together whenever something is tried out.
    """
    made = learn(features, labels, groups, seed, tell)
    return Discriminator(name, made.stage, made.report, made.head, made.calibration)


def _installed_reader() -> Reader:
    settings = load_settings()
    return Reader(prepare(settings.model, settings.data_dir / "models"))
