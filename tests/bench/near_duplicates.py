"""Near-duplicates: how many planted ones are found, and what looking costs beside the library alone.

    python -m tests.bench.near_duplicates --data FILE.jsonl [--rows 20000] [--rounds 3]

FILE holds {"conversation": [...], "response": "..."} lines, as `python -m cl export` writes them. Of
each answer a copy is planted with 3 % of its words changed (one at least), and one with its last
quarter cut off. The cost is measured on texts of 64 random words, alternated with rensa's own index
over the same texts (128 permutations, threshold 0.5), which looks at question and answer as one
and verifies nothing.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from rensa import RMinHash, RMinHashLSH

from cl.rules.dedupe import NearDuplicates
from cl.rules.text import words
from cl.settings import DataLimits

Row = tuple[int, str, str]
THRESHOLD = DataLimits().near_duplicate


def changed(words: list[str], dice: random.Random, vocabulary: list[str]) -> list[str]:
    copy = words[:]
    for _ in range(max(1, round(0.03 * len(copy)))):
        copy[dice.randrange(len(copy))] = dice.choice(vocabulary)
    return copy


def recall(rows: list[Row], damage: Callable[[list[str]], list[str]]) -> float:
    """The share of damaged copies that are found among all the rows."""
    seen = NearDuplicates(THRESHOLD)
    for number, prompt, answer in rows:
        seen.look(number, prompt, answer)
    copies = [(p, " ".join(damage(a.split()))) for _, p, a in rows]
    found = sum(seen.look(len(rows) + n, *c).repeats is not None for n, c in enumerate(copies))
    return found / len(rows)


def library_alone(rows: list[Row]) -> None:
    index = RMinHashLSH(threshold=0.5, num_perm=128, num_bands=32)
    for number, prompt, answer in rows:
        sketch = RMinHash(num_perm=128, seed=1)
        found = words(f"{prompt} {answer}")
        sketch.update([" ".join(found[i : i + 3]) for i in range(len(found) - 2)])
        index.query(sketch)
        index.insert(number, sketch)


def ours_alone(rows: list[Row]) -> None:
    seen = NearDuplicates(THRESHOLD)
    for number, prompt, answer in rows:
        seen.look(number, prompt, answer)


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    dice = random.Random(0)
    with options.data.open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    found = [(line["conversation"][-1]["content"], line["response"]) for line in lines]
    real = [(n, f"{p} ({n})", a) for n, (p, a) in enumerate(found) if len(a.split()) >= 8]
    vocabulary = [word for _, _, answer in real for word in answer.split()]
    print(f"{len(real)} answers of 8 words and more, threshold {THRESHOLD:g}")
    print(f"3 % of the words changed: {recall(real, lambda w: changed(w, dice, vocabulary)):.4f}")
    print(f"last quarter cut off:     {recall(real, lambda w: w[: len(w) * 3 // 4]):.4f}")

    def draw(count: int) -> str:
        return " ".join(dice.choices(vocabulary, k=count))

    rows = [(n, draw(10), draw(64)) for n in range(options.rows)]
    ours, theirs = [], []
    for _ in range(options.rounds):
        ours.append(cpu_seconds(lambda: ours_alone(rows)))
        theirs.append(cpu_seconds(lambda: library_alone(rows)))
    per = 100_000 / options.rows
    print(
        f"CPU seconds for 100,000 rows: {per * median(ours):.1f}, the library alone "
        f"{per * median(theirs):.1f} ({median(ours) / median(theirs):.2f} of it)"
    )


if __name__ == "__main__":
    main()
