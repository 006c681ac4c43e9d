"""Which examples say the same thing twice.

Exact duplicates share their content key (case, spacing and punctuation aside). Near-duplicates
have both a similar prompt and a similar answer: MinHash finds the pairs worth a look, the Jaccard
similarity of their word triples decides. Prompt and answer are measured apart, because different
wordings of one question with one answer are what a model generalises from.
"""

from collections.abc import Iterable

from rensa import RMinHash, RMinHashLSH

from cl.rules.text import shingles

_PERMUTATIONS, _BANDS = 128, 32


def near_duplicates(texts: Iterable[tuple[int, str, str]], threshold: float) -> set[int]:
    """The ids of (id, prompt, answer) that repeat an earlier one: the order says which one stays."""
    index = RMinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, num_bands=_BANDS)
    seen: dict[int, tuple[set[str], set[str]]] = {}
    repeated: set[int] = set()
    for number, prompt, answer in texts:
        mine = (shingles(prompt), shingles(answer))
        sketch = RMinHash(num_perm=_PERMUTATIONS, seed=1)
        sketch.update(sorted(mine[0]))
        if any(_alike(mine, seen[other], threshold) for other in index.query(sketch)):
            repeated.add(number)
            continue
        seen[number] = mine
        index.insert(number, sketch)
    return repeated


def _alike(a: tuple[set[str], set[str]], b: tuple[set[str], set[str]], threshold: float) -> bool:
    return all(len(x & y) >= threshold * len(x | y) for x, y in zip(a, b, strict=True))
