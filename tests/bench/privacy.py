"""What the privacy rules find in somebody else's test strings, and what they cost.

    python -m tests.bench.privacy --presidio DIR [--data DIR]

`--presidio` is a folder with the recognizer tests of microsoft/presidio (its
`presidio-analyzer/tests/test_*_recognizer.py`), which are read, never run: every row of a
`parametrize` list names a text and the stretches in it that are personal. A stretch is found when
it is gone from the text. `--data` is a folder of conversations, one JSON object a line; the cost
is the processor time of all their texts.
"""

import argparse
import ast
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl.rules.privacy import scrub

_TEXTS = {"text", "iban"}
_SPANS = {"expected_positions", "expected_res"}


@dataclass(frozen=True)
class Case:
    """A text of Presidio's and the stretches it calls personal; none for a negative."""

    kind: str
    text: str
    stretches: tuple[str, ...]


def read_cases(folder: Path) -> list[Case]:
    """Every distinct case of the recognizer tests in the folder, in order."""
    found = {
        case: None
        for path in sorted(folder.glob("test_*_recognizer.py"))
        for case in _cases_of(path.name[len("test_") : -len("_recognizer.py")], path)
    }
    return list(found)


def _cases_of(kind: str, path: Path) -> Iterator[Case]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "parametrize"
            and isinstance(node.args[1], ast.List)
        ):
            names = [name.strip() for name in _value(node.args[0]).split(",")]
            for row in node.args[1].elts:
                if isinstance(row, ast.Tuple) and (case := _case(kind, names, row.elts)):
                    yield case


def _case(kind: str, names: list[str], fields: list[ast.expr]) -> Case | None:
    row = dict(zip(names, fields, strict=False))
    text = next((_value(row[name]) for name in names if name in _TEXTS), None)
    spans = next((_value(row[name]) for name in names if name in _SPANS), None)
    if not isinstance(text, str) or not isinstance(spans, tuple):
        return None
    stretches = tuple(text[start:end] for start, end in spans)
    is_positive = _value(row["expected_len"]) if "expected_len" in row else len(stretches)
    return Case(kind, text, (stretches or (text,)) if is_positive else ())


def _value(field: ast.expr) -> Any:
    if isinstance(field, ast.JoinedStr):  # an f-string with nothing to fill in
        return "".join(_value(part) for part in field.values)
    return ast.literal_eval(field)


def measure_cases(cases: list[Case], clean: Callable[[str], str], verbose: bool) -> None:
    """Prints found of total for each kind, and how many negatives were changed."""
    all_found = all_wanted = 0
    for kind in dict.fromkeys(case.kind for case in cases):
        # The same stretch in two rows counts once: the lists repeat some with other settings.
        wanted = {
            (case.text, stretch)
            for case in cases
            if case.kind == kind
            for stretch in case.stretches
        }
        missed = sorted((text, part) for text, part in wanted if part in clean(text))
        all_wanted += len(wanted)
        all_found += len(wanted) - len(missed)
        print(f"{kind:14} {len(wanted) - len(missed):4} of {len(wanted):3} found")
        for text, part in missed if verbose else ():
            print(f"    missed {part!r} in {text!r} -> {clean(text)!r}")
    print(f"{'all':14} {all_found:4} of {all_wanted:3} found")
    negatives = [case for case in cases if not case.stretches]
    changed = [case for case in negatives if clean(case.text) != case.text]
    print(f"{'negatives':14} {len(changed):4} of {len(negatives):3} changed")
    for case in changed if verbose else ():
        print(f"    {case.kind}: {case.text!r} -> {clean(case.text)!r}")


def measure_cost(folder: Path, clean: Callable[[str], str], verbose: bool) -> None:
    """Prints the processor seconds per 1,000 records, and how many records were changed."""
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        texts = [
            [turn["content"] for turn in record.get("conversation", ())]
            + [record.get("response", "")]
            for record in records
        ]
        seconds = min(_seconds(texts, clean) for _ in range(3))
        changed = [
            (text, clean(text)) for record in texts for text in record if clean(text) != text
        ]
        print(
            f"{path.name:18} {1000 * seconds / len(records):.4f} CPU s per 1,000 of"
            f" {len(records)} records, {len(changed)} of {sum(map(len, texts))} texts changed"
        )
        for text, cleaned in changed if verbose else ():
            print(f"    {text!r}\n      -> {cleaned!r}")


def _seconds(texts: list[list[str]], clean: Callable[[str], str]) -> float:
    began = time.process_time()
    for record in texts:
        for text in record:
            clean(text)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--presidio", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--verbose", action="store_true", help="each text that went wrong")
    options = parser.parse_args()

    def clean(text: str) -> str:
        return scrub(text)[0]

    measure_cases(read_cases(options.presidio), clean, options.verbose)
    if options.data:
        measure_cost(options.data, clean, options.verbose)


if __name__ == "__main__":
    main()
