"""A whole data set in the forms of other trainers; the trainers themselves where there are any."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cl.files import TEMPORARY
from cl.rules.exchange.chat_exports import histories
from cl.rules.exchange.formats import FORMATS
from cl.transfer import convert_folder
from tests.bench.consumers import LINES, READERS, data_set


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", FORMATS)
def test_every_line_is_written_once_in_the_right_half(tmp_path: Path, name: str) -> None:
    data_set(tmp_path)
    paths = convert_folder(tmp_path, name)
    assert paths == [tmp_path / f"train.{name}.jsonl", tmp_path / f"val.{name}.jsonl"]
    train, val = map(read, paths)
    if name in ("kto", "dpo"):
        count = {"kto": 2, "dpo": 1}[name]
        assert (len(train), len(val)) == (LINES // 4 * 3 * count, LINES // 4 * count)
        assert not [line for line in (*train, *val) if {"split", "id"} & line.keys()]
    else:
        assert len(train) == len(val) == LINES
    assert len({tuple(sorted(line)) for line in (*train, *val)}) == 1
    assert not [*tmp_path.glob(f"{TEMPORARY}*")]


@pytest.mark.parametrize("name", ["messages", "sharegpt"])
def test_what_goes_out_in_a_form_we_read_comes_in_the_same(tmp_path: Path, name: str) -> None:
    data_set(tmp_path)
    path = convert_folder(tmp_path, name)[0]
    for line, original in zip(read(path), read(tmp_path / "train.jsonl"), strict=True):
        (history,) = histories(line)
        said = [text for e in history.exchanges for text in (e.prompt, e.answer)]
        assert said == [m["content"] for m in original["messages"] if m["role"] != "system"]


def test_a_line_with_a_history_comes_first_so_that_readers_see_its_type(tmp_path: Path) -> None:
    data_set(tmp_path)
    convert_folder(tmp_path, "alpaca")
    lines = read(tmp_path / "train.alpaca.jsonl")
    assert lines[0]["history"]
    assert sorted(line["instruction"] for line in lines) == [
        f"Question {n}, please?" for n in range(LINES)
    ]


def test_a_set_without_any_history_stays_in_order(tmp_path: Path) -> None:
    messages = [[{"role": r, "content": f"{r}{n}"} for r in ("user", "assistant")] for n in (1, 2)]
    for name in ("train", "val"):
        text = "".join(json.dumps({"messages": m}) + "\n" for m in messages)
        (tmp_path / f"{name}.jsonl").write_text(text)
    convert_folder(tmp_path, "alpaca")
    found = [line["instruction"] for line in read(tmp_path / "train.alpaca.jsonl")]
    assert found == ["user1", "user2"]


def test_an_unknown_form_and_a_set_without_votes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'csv' is not a format; there are messages, "):
        convert_folder(tmp_path, "csv")
    with pytest.raises(ValueError, match=r"holds no votes\.jsonl, which the format kto"):
        convert_folder(tmp_path, "kto")


def test_a_line_that_cannot_be_converted_leaves_no_file_behind(tmp_path: Path) -> None:
    data_set(tmp_path)
    with (tmp_path / "val.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(KeyError):
        convert_folder(tmp_path, "messages")
    assert not [*tmp_path.glob("*.messages.jsonl"), *tmp_path.glob(f"{TEMPORARY}*")]


@pytest.mark.slow
@pytest.mark.parametrize("reader", [name for name in READERS if find_spec(name)])
def test_the_trainer_itself_takes_them(reader: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.consumers", reader],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
