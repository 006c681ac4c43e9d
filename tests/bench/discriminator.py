"""How well the discriminator tells thumbs up from thumbs down, source by source.

    python -m tests.bench.discriminator --data DIR [--model FOLDER] [--only WORD]

Reads DIR/thumbs.jsonl and DIR/preference.jsonl (conversation, response, feedback, group, source and,
for two answers one person compared, pair_id). Each source is cut into five folds of whole groups;
every row is scored by a model trained on the other four, through `train_on` and `score_features`,
which are what `train` and `score` do once the base model has read a text. AUC with its 90 %
interval (groups redrawn), expected calibration error over ten bins, Brier score, AUC from 100
labels (mean of five draws), share of pairs in the right order, and the processor time of reading
and scoring one answer on one core.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cl.model import discriminator
from cl.model.base_model import prepare
from cl.model.reader import Reader
from cl.rules import calibration
from cl.settings import load_settings

FOLDS, DRAWS, FEW = 5, 5, 100
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="a folder with a base model; else the settings' one")
    parser.add_argument("--only", default="", help="only sources with this in their name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = load_settings()
    base = prepare(options.model or settings.model, settings.data_dir / "models")
    reader = Reader(base)
    head = ("source", "n", "up", "AUC", "90 %", "ECE", "Brier", f"{FEW} labels", "pairs", "CPU ms")
    print("{:14}{:>6}{:>6}{:>7}{:>14}{:>7}{:>7}{:>12}{:>7}{:>8}".format(*head))
    for source, rows in by_source(options.data).items():
        if options.only in source:
            print(line(source, rows, reader), flush=True)


def by_source(folder: Path) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for name in ("thumbs.jsonl", "preference.jsonl"):
        for text in (folder / name).read_text(encoding="utf-8").splitlines():
            row = json.loads(text)
            found[row["source"].split("/")[0]].append(row)
    return found


def line(source: str, rows: list[Row], reader: Reader) -> str:
    began = time.process_time()
    features = reader.read([(row["conversation"], row["response"]) for row in rows])
    reading = time.process_time() - began
    labels = np.array([row["feedback"] for row in rows])
    groups = np.array([row["group"] for row in rows])
    up, chances = labels > 0, np.zeros(len(rows))
    scoring = 0.0
    for train, test in folds(groups, seed=0):
        made = discriminator.train_on(
            features[train], labels[train].tolist(), groups[train].tolist()
        )
        began = time.process_time()
        chances[test] = made.score_features(features[test])
        scoring += time.process_time() - began
    area = calibration.interval(calibration.auc, chances, up, groups.tolist(), seed=0)
    few = [from_few(features, labels, groups, seed) for seed in range(DRAWS)]
    pairs = right_order(rows, chances)
    return (
        f"{source:14}{len(rows):6}{up.mean():6.2f}{area.value:7.3f}"
        f"{f'[{area.low:.3f}-{area.high:.3f}]':>14}{calibration.calibration_error(chances, up):7.3f}"
        f"{calibration.brier(chances, up):7.3f}{np.mean(few):12.3f}"
        f"{'' if pairs is None else f'{pairs:.3f}':>7}{(reading + scoring) / len(rows) * 1e3:8.1f}"
    )


def folds(groups: Any, seed: int) -> Iterator[tuple[Any, Any]]:
    names = np.unique(groups)
    np.random.default_rng(seed).shuffle(names)
    place = {name: i % FOLDS for i, name in enumerate(names)}
    fold = np.array([place[group] for group in groups])
    for i in range(FOLDS):
        yield np.flatnonzero(fold != i), np.flatnonzero(fold == i)


def from_few(features: Any, labels: Any, groups: Any, seed: int) -> float:
    """AUC on one fold after training on FEW labels of the others."""
    train, test = next(folds(groups, seed))
    train = np.random.default_rng(seed).choice(train, FEW, replace=False)
    made = discriminator.train_on(features[train], labels[train].tolist(), groups[train].tolist())
    return calibration.auc(made.score_features(features[test]), labels[test] > 0)


def right_order(rows: list[Row], chances: Any) -> float | None:
    """Share of the compared pairs in which the preferred answer scores higher; ties count half."""
    pairs: dict[str, dict[int, float]] = defaultdict(dict)
    for row, chance in zip(rows, chances, strict=True):
        if "pair_id" in row:
            pairs[row["pair_id"]][row["feedback"]] = chance
    whole = [(two[1], two[-1]) for two in pairs.values() if len(two) == 2]
    if not whole:
        return None
    return float(np.mean([(up > down) + 0.5 * (up == down) for up, down in whole]))


if __name__ == "__main__":
    main()
