"""The rehearsal buffer: asked of the base model once, then read from its file."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cl.model.rehearsal import ANSWER_TOKENS, PROMPTS, RehearsalBuffer, RehearsalRow
from cl.records import BASE, Finish, Message, Sampling

ANSWERS = {
    "Hello!": "Hi there.",
    "Tell me a story.": "Once upon a",
    "Say nothing.": " ",
    "Two\u2028lines": "a\u2028b.",
}


class Speaker:
    """Answers from the table above; a story is longer than an answer may be."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, float]] = []
        self.problem: Exception | None = None

    def ask_all(
        self,
        version: str,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling,
        tell: Callable[[int], None] = lambda done: None,
    ) -> list[tuple[str, Finish]]:
        self.asked.append((version, sampling.max_tokens, sampling.temperature))
        if self.problem:
            raise self.problem
        answers = [ANSWERS[c[-1]["content"]] for c in conversations]
        tell(len(answers))
        return [(text, Finish("stop" if text[-1] in ". " else "length")) for text in answers]


@pytest.fixture
def speaker() -> Speaker:
    return Speaker()


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(ANSWERS) + "\n")
    return path


def test_the_base_model_is_asked_greedily_and_once(
    tmp_path: Path, speaker: Speaker, prompts: Path
) -> None:
    heard: list[tuple[int, int]] = []
    first = RehearsalBuffer(speaker, tmp_path, "a" * 64, prompts).rows(
        lambda done, of: heard.append((done, of))
    )
    assert RehearsalBuffer(speaker, tmp_path, "a" * 64, prompts).rows() == first
    assert speaker.asked == [(BASE, ANSWER_TOKENS, 0.0)]
    assert heard == [(4, 4)]


def test_rows_say_whether_the_model_ended_the_answer_and_empty_answers_are_left_out(
    tmp_path: Path, speaker: Speaker, prompts: Path
) -> None:
    assert RehearsalBuffer(speaker, tmp_path, "a" * 64, prompts).rows() == [
        RehearsalRow("Hello!", "Hi there.", whole=True),
        RehearsalRow("Tell me a story.", "Once upon a", whole=False),
        RehearsalRow("Two\u2028lines", "a\u2028b.", whole=True),
    ]


def test_another_base_model_is_asked_anew(tmp_path: Path, speaker: Speaker, prompts: Path) -> None:
    RehearsalBuffer(speaker, tmp_path, "a" * 64, prompts).rows()
    RehearsalBuffer(speaker, tmp_path, "b" * 64, prompts).rows()
    assert len(speaker.asked) == 2


def test_asking_that_broke_off_leaves_no_half_buffer(
    tmp_path: Path, speaker: Speaker, prompts: Path
) -> None:
    buffer = RehearsalBuffer(speaker, tmp_path, "a" * 64, prompts)
    speaker.problem = RuntimeError("the app is closing")
    with pytest.raises(RuntimeError, match="closing"):
        buffer.rows()
    speaker.problem = None
    assert len(buffer.rows()) == 3


def test_the_shipped_prompts_are_many_and_different() -> None:
    lines = PROMPTS.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines)) > 200
    assert all(line.strip() for line in lines)
