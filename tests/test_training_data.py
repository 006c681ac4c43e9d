"""From the log to the training files: every step of the funnel, and the same bytes every time."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cl.db import candidates
from cl.db.tables import Conversation, HeldOut, Interaction
from cl.house import Books
from cl.records import Arm, DataSet, Decision, Outcome, Reviewed, Route, Status
from cl.settings import DataLimits
from cl.training_data import TrainingDataGenerator
from tests.fakes import FixedDecisions, FixedRehearsal, FixedScores

LIMITS = DataLimits(min_users=1, min_examples=1, max_user_share=1.0)
GOOD = "The {} is kept in the small room on the second floor."


def generator(
    books: Books,
    limits: DataLimits = LIMITS,
    system_prompt: str = "",
    scores: FixedScores | None = None,
    decisions: FixedDecisions | None = None,
) -> TrainingDataGenerator:
    return TrainingDataGenerator(
        books.logger,
        FixedRehearsal(),
        scores or FixedScores(),
        decisions or FixedDecisions(),
        lambda: limits,
        system_prompt,
    )


def say(
    books: Books,
    thing: str,
    *,
    user: str = "ana",
    answer: str | None = None,
    thumb: int = 1,
    correction: str = "",
    status: Status = Status.COMPLETE,
    quality: float | None = None,
    conversation: int | None = None,
    regenerates: int | None = None,
) -> int:
    """One finished interaction about a thing, with feedback."""
    prompt = f"Where is the {thing}?"
    conversation = conversation or books.logger.open_conversation(user, prompt)
    number = books.logger.log(
        user, conversation, prompt, Route("base", Arm.DEFAULT), None, regenerates
    )
    text = GOOD.format(thing) if answer is None else answer
    books.logger.finish(number, Outcome(status, text, 1.0))
    if quality is not None:
        scored = Interaction.update(quality=quality, scorer="scorer-0001")
        scored.where(Interaction.id == number).execute()
    if thumb or correction:
        books.logger.record_feedback(number, user, thumb=thumb, correction=correction)
    return number


def rows(made: DataSet, name: str = "train") -> list[dict[str, Any]]:
    path = Path(made.folder) / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def taught(made: DataSet) -> list[dict[str, Any]]:
    lines = [row for name in ("train", "val") for row in rows(made, name)]
    return [row for row in lines if row["source"] != "rehearsal"]


def dropped(made: DataSet) -> dict[str, int]:
    return {reason: n for step in made.funnel for reason, n in step.dropped.items()}


THINGS = ("stapler", "printer", "ladder", "kettle", "projector", "drill", "mop", "scanner")


def test_an_empty_log_makes_files_and_says_what_is_missing(books: Books, tmp_path: Path) -> None:
    made = generator(books, DataLimits()).generate(tmp_path)
    assert not made.enough
    assert made.reason == "examples from 0 people, at least 3 are needed"
    assert rows(made) == rows(made, "val") == []  # nor is the base model asked for nothing


def test_liked_answers_and_corrections_become_examples(books: Books, tmp_path: Path) -> None:
    for thing in THINGS[:-1]:
        say(books, thing)
    corrected = say(books, THINGS[-1], thumb=-1, correction="On the roof.")
    made = generator(books).generate(tmp_path)
    assert (made.enough, made.examples, made.corrections) == (True, 8, 1)
    by_id = {row["id"]: row for row in taught(made)}
    assert by_id[corrected]["messages"] == [
        {"role": "user", "content": "Where is the scanner?"},
        {"role": "assistant", "content": "On the roof."},
    ]
    assert by_id[corrected]["source"] == "correction"
    assert by_id[corrected - 1]["version"] == "base"  # a liked answer names its author


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"thumb": 0}, "no feedback"),
        ({"thumb": -1}, "thumb down"),
        ({"status": Status.CANCELLED}, "answer cancelled"),
        ({"status": Status.CANCELLED, "thumb": 0}, "answer cancelled"),
        ({"status": Status.ERROR}, "answer error"),
        ({"quality": 0.49}, "quality below 0.7"),
        ({"quality": 0.49, "thumb": 0}, "quality below 0.7"),
        ({"quality": 0.69, "answer": "doubtful"}, "quality below 0.7"),
        ({"answer": "no no no no no no no no", "quality": 0.9}, "repeats itself"),
        ({"answer": "poor", "quality": 0.9}, "scored below 0.5"),
        ({"answer": "unknown", "quality": 0.9}, "not scored by scorer-0002 yet"),
    ],
)
def test_what_is_not_good_enough_is_dropped_and_says_why(
    books: Books, tmp_path: Path, what: dict[str, Any], reason: str
) -> None:
    say(books, "drill", **what)
    scores = FixedScores({GOOD.format("drill"): 0.9, "poor": 0.49, "doubtful": 0.79})
    made = generator(books, scores=scores).generate(tmp_path)
    assert (made.examples, dropped(made)) == (0, {reason: 1})


def test_the_maybe_band_needs_a_thumb_and_a_very_good_score(books: Books, tmp_path: Path) -> None:
    say(books, "drill", quality=0.5)
    scores = FixedScores({GOOD.format("drill"): 0.8})
    assert generator(books, scores=scores).generate(tmp_path).examples == 1


def test_without_a_scorer_that_may_select_thumbs_decide(books: Books, tmp_path: Path) -> None:
    say(books, "drill", quality=0.1)
    assert generator(books).generate(tmp_path).examples == 1


def test_a_correction_counts_whatever_it_replaces(books: Books, tmp_path: Path) -> None:
    for status in (Status.CANCELLED, Status.ERROR, Status.COMPLETE):
        say(books, f"{status} thing", status=status, answer="", thumb=-1, correction="In the lab.")
    assert generator(books).generate(tmp_path).corrections == 3


def test_repetitions_are_dropped_exact_near_and_conflicting(books: Books, tmp_path: Path) -> None:
    say(books, "Drill")
    say(books, "drill")
    long = "The drill hangs on the wall beside the door of the workshop on the ground floor"
    say(books, "big drill", answer=f"{long}, left of the blue cupboard.")
    say(books, "big drill", answer=f"{long}, left of the blue cupboard, I think.")
    say(books, "mop")
    say(books, "mop", user="ben", thumb=-1)
    made = generator(books).generate(tmp_path)
    assert dropped(made) == {
        "the same again": 1,
        "nearly the same": 1,
        "liked by one, disliked by another": 1,
        "thumb down": 1,
    }


def test_the_latest_correction_of_a_question_counts(books: Books, tmp_path: Path) -> None:
    say(books, "drill", thumb=-1, correction="In the cellar.")
    say(books, "drill", thumb=-1, correction="In the attic.")
    made = generator(books).generate(tmp_path)
    assert [row["messages"][-1]["content"] for row in taught(made)] == ["In the attic."]


def test_one_person_cannot_fill_the_set(books: Books, tmp_path: Path) -> None:
    for number in range(30):
        say(books, f"thing number {number}", answer=f"Room {number} has it, on shelf {number}.")
    for number in range(10):
        say(books, f"tool number {number}", user="ben", answer=f"Box {number} holds tool {number}.")
    limits = replace(LIMITS, max_user_share=0.5, min_user_examples=1)
    made = generator(books, limits).generate(tmp_path)
    by_user = [
        next(r.user for r in books.logger.get_records(row["id"] - 1)) for row in taught(made)
    ]
    assert by_user.count("ana") <= 11
    assert by_user.count("ben") == 10


def test_personal_data_never_reaches_the_files(books: Books, tmp_path: Path) -> None:
    for thing in THINGS:
        say(books, thing, thumb=-1, correction=f"Ask ana.roth@example.org about the {thing}.")
    made = generator(books).generate(tmp_path)
    files = [
        (tmp_path / f"{name}.jsonl").read_text() for name in ("train", "val", "votes", "pairs")
    ]
    assert "ana.roth" not in "".join(files)
    assert "".join(files[:2]).count("[EMAIL]") == dropped(made)["EMAIL replaced"] == 8


def test_a_conversation_is_never_on_both_sides(books: Books, tmp_path: Path) -> None:
    talks = [books.logger.open_conversation("ana", str(n)) for n in range(12)]
    for number in range(36):
        say(books, f"thing {number}", conversation=talks[number % 12])
    made = generator(books).generate(tmp_path)
    of = {r.id: r.conversation_id for r in books.logger.get_records()}
    sides = [
        {of[row["id"]] for row in rows(made, name) if "id" in row} for name in ("train", "val")
    ]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_the_turns_before_come_along(books: Books, tmp_path: Path) -> None:
    for number in range(4):
        talk = books.logger.open_conversation("ana", str(number))
        say(books, f"lamp {number}", conversation=talk, thumb=0)
        say(books, f"bulb {number}", conversation=talk)
    made = generator(books, system_prompt="Be brief.").generate(tmp_path)
    for row in taught(made):
        assert [m["role"] for m in row["messages"]] == [
            "system",
            "user",
            "assistant",
            "user",
            "assistant",
        ]


def test_what_came_after_the_watermark_is_left_out(books: Books, tmp_path: Path) -> None:
    ids = [say(books, thing) for thing in THINGS]
    made = generator(books).generate(tmp_path, up_to_id=ids[3])
    assert {row["id"] for row in taught(made)} == set(ids[:4])


def test_the_same_log_gives_the_same_bytes(books: Books, tmp_path: Path) -> None:
    for number, thing in enumerate(THINGS * 5):
        say(books, f"{thing} {number}", user=f"user{number % 7}", thumb=number % 3 - 1)
    made = [generator(books).generate(tmp_path / name) for name in ("a", "b")]
    assert made[0].sha256 == made[1].sha256
    for name in (
        "train.jsonl",
        "val.jsonl",
        "votes.jsonl",
        "pairs.jsonl",
        "probes.jsonl",
        "manifest.json",
    ):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_was_held_out_once_is_never_trained_on(books: Books, tmp_path: Path) -> None:
    for number in range(40):
        say(books, f"thing {number}")
    first = generator(books).generate(tmp_path / "a")
    held = {row["id"] for row in rows(first, "val") if row["source"] == "thumb"}
    # Another seed draws others, a copy of a held-out example turns up in another conversation.
    again = rows(first, "val")[0]["messages"][0]["content"].split("the ")[1][:-1]
    say(books, again, user="ben")
    second = generator(books, replace(LIMITS, seed=1)).generate(tmp_path / "b")
    trained = [row for row in rows(second) if row["source"] == "thumb"]
    assert held
    assert held.isdisjoint(row["id"] for row in trained)
    assert not any(f"the {again}?" in row["messages"][0]["content"] for row in trained)


def test_the_funnel_adds_up(books: Books, tmp_path: Path) -> None:
    for number in range(60):
        say(books, f"{THINGS[number % 8]} {number % 20}", thumb=number % 3 - 1)
    made = generator(books).generate(tmp_path)
    assert made.funnel[0].kept == 60
    for before, after in zip(made.funnel, made.funnel[1:], strict=False):
        lost = sum(n for reason, n in after.dropped.items() if "replaced" not in reason)
        assert before.kept - lost == after.kept, after.name
    assert made.funnel[-1].kept == made.train + made.val == made.examples


@pytest.mark.parametrize("text", ["a" * 100_000, "\u202eright to left", "<|im_start|>system"])
def test_strange_texts_stay_text(books: Books, tmp_path: Path, text: str) -> None:
    for thing in THINGS:
        say(books, thing, thumb=-1, correction=f"{thing}: {text}"[:8000])
    assert generator(books).generate(tmp_path).examples == 8


def test_a_review_keeps_drops_and_edits_whatever_the_scores_say(
    books: Books, tmp_path: Path
) -> None:
    ids = {thing: say(books, thing, quality=0.9) for thing in THINGS}
    low = say(books, "attic", quality=0.1)

    def decided(id_: int, decision: Decision, answer: str = "") -> Reviewed:
        key = candidates.by_id([id_])[id_].key
        return Reviewed(key, decision, "", answer, "admin", "", books.clock(), id_)

    decisions = FixedDecisions(
        decided(ids["mop"], Decision.EXCLUDE),
        decided(ids["drill"], Decision.EDIT, "The drill hangs in the workshop."),
        decided(low, Decision.KEEP),
    )
    scores = FixedScores({GOOD.format(thing): 0.9 for thing in THINGS})
    made = generator(books, scores=scores, decisions=decisions).generate(tmp_path)
    by_id = {row["id"]: row for row in taught(made)}
    assert set(by_id) == {*ids.values(), low} - {ids["mop"]}
    assert by_id[ids["drill"]]["messages"][-1]["content"] == "The drill hangs in the workshop."
    assert dropped(made) == {"excluded by a reviewer": 1}
    drill = [row for row in rows(made, "pairs") if row["id"] == ids["drill"]]
    assert [row["chosen"] for row in drill] == ["The drill hangs in the workshop."]


def test_a_chat_that_is_not_to_be_learned_from_leaves_no_trace(
    books: Books, tmp_path: Path
) -> None:
    private = books.logger.open_conversation("ana", "Private")
    say(books, "letter", conversation=private, thumb=1)
    say(books, "salary", conversation=private, thumb=-1, correction="It is in the safe.")
    say(books, "stamp", conversation=private, thumb=0)
    Conversation.update(learn=False).where(Conversation.id == private).execute()
    for thing in THINGS:
        say(books, thing)
    made = generator(books).generate(tmp_path)
    text = "".join(path.read_text() for path in tmp_path.glob("*.jsonl"))
    assert not [word for word in ("letter", "salary", "stamp", "safe") if word in text]
    assert dropped(made)["not to be learned from"] == 2


def test_votes_are_what_was_liked_and_what_was_not(books: Books, tmp_path: Path) -> None:
    for thing in THINGS:
        say(books, thing)
    no = say(books, "ladle", thumb=-1, answer="In the river.")
    say(books, "ladle", thumb=-1, answer="In the river.", user="ben")
    fixed = say(books, "whisk", thumb=-1, answer="On the moon.", correction="In the drawer.")
    say(books, "cancelled", thumb=-1, status=Status.CANCELLED)
    made = generator(books).generate(tmp_path)
    votes = rows(made, "votes")
    bad = {row["completion"] for row in votes if not row["label"]}
    assert bad == {"In the river.", "On the moon."}
    assert {row["completion"] for row in votes if row["label"] and row["id"] == fixed} == {
        "In the drawer."
    }
    assert made.votes == len(votes) == 8 + 1 + 2
    assert no < fixed
    assert all(row["prompt"][-1]["role"] == "user" for row in votes)


def test_of_dislikes_some_are_held_out_too_and_no_question_is_on_both_sides(
    books: Books, tmp_path: Path
) -> None:
    for thing in THINGS:
        say(books, thing)
        say(books, thing, thumb=-1, answer="In the river.", user="ben")
    for number in range(80):
        for user in ("ana", "ben"):
            say(books, f"box {number}", user=user, thumb=-1, answer=f"In the pond, {user}.")
    made = generator(books).generate(tmp_path)
    votes = [(v["prompt"][-1]["content"], v["split"], v["label"]) for v in rows(made, "votes")]
    sides = {
        split: {prompt for prompt, side, _ in votes if side == split} for split in ("train", "val")
    }
    assert not sides["train"] & sides["val"]
    held = [prompt for prompt, side, label in votes if side == "val" and "box" in prompt]
    assert 10 <= len(held) <= 60
    conversations = {row.conversation_id for row in Interaction.select() if row.prompt in held}
    assert {h.conversation_id for h in HeldOut.select()} & conversations
    assert rows(generator(books).generate(tmp_path / "again"), "votes") == rows(made, "votes")


def test_a_dislike_that_was_held_out_once_stays_so_as_the_log_grows(
    books: Books, tmp_path: Path
) -> None:
    for thing in THINGS:
        say(books, thing)

    def held(folder: str) -> set[int]:
        votes = rows(generator(books).generate(tmp_path / folder), "votes")
        return {v["id"] for v in votes if v["split"] == "val" and not v["label"]}

    for number in range(8):  # so few that the share alone would hold out none, or one
        say(books, f"box {number}", thumb=-1, answer="In the pond.")
    before = held("few")
    for number in range(8, 120):
        say(books, f"box {number}", thumb=-1, answer="In the pond.")
    assert 0 < len(before) < 8
    assert before < held("many")


def test_pairs_come_from_corrections_and_from_regenerated_answers(
    books: Books, tmp_path: Path
) -> None:
    for thing in THINGS:
        say(books, thing)
    fixed = say(books, "whisk", thumb=-1, answer="On the moon.", correction="In the drawer.")
    chat = books.logger.open_conversation("ana", "A chat")
    first = say(books, "ladle", conversation=chat, answer="In the river.", thumb=-1)
    second = say(
        books, "ladle", conversation=chat, answer="On the hook.", thumb=0, regenerates=first
    )
    liked = say(books, "sieve", conversation=chat, answer="Behind you.")
    say(books, "sieve", conversation=chat, answer="No idea.", thumb=0, regenerates=liked)
    unrated = say(books, "spoon", conversation=chat, answer="Here.", thumb=0)
    say(books, "spoon", conversation=chat, answer="There.", thumb=0, regenerates=unrated)
    made = generator(books).generate(tmp_path)
    pairs = {row["id"]: (row["chosen"], row["rejected"]) for row in rows(made, "pairs")}
    assert pairs == {
        fixed: ("In the drawer.", "On the moon."),
        second: ("On the hook.", "In the river."),
        liked: ("Behind you.", "No idea."),
    }
    turns = next(row["prompt"] for row in rows(made, "pairs") if row["id"] == liked)
    assert [m["content"] for m in turns] == [
        "Where is the ladle?",
        "On the hook.",  # the answer it replaced is not part of the conversation any more
        "Where is the sieve?",
    ]


def test_real_questions_join_the_rehearsal_people_taking_turns(
    books: Books, tmp_path: Path
) -> None:
    for thing in THINGS:
        say(books, thing)
    for number in range(60):
        user = "ana" if number < 50 else f"user {number}"
        say(books, f"box {number} of a@b.de", user=user, thumb=0)
    limits = replace(LIMITS, real_prompts=12)
    made = [generator(books, limits).generate(tmp_path / name) for name in ("a", "b")]
    assert made[0].sha256 == made[1].sha256
    lines = [row for name in ("train", "val") for row in rows(made[0], name)]
    real = [row for row in lines if row["source"] == "rehearsal" and "id" in row]
    assert len(real) == 12
    assert all("[EMAIL]" in row["messages"][0]["content"] for row in real)
    assert sum(row["id"] > 58 for row in real) == 10  # the other ten people come first


def test_the_manifest_names_everything_the_set_was_made_of(books: Books, tmp_path: Path) -> None:
    ids = [say(books, thing) for thing in THINGS]
    made = generator(books).generate(tmp_path)
    told = json.loads((tmp_path / "manifest.json").read_text())
    assert sorted(told["ids"]["train"] + told["ids"]["val"]) == ids
    for name, digest in told["files"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    names = ("train", "val", "votes", "pairs", "probes")
    assert set(told["files"]) == {f"{name}.jsonl" for name in names}
    assert (told["scorer"], told["settings"]["seed"]) == ("rules-1", 0)
    assert told["train"] == made.train == len(told["ids"]["train"])


def test_a_long_conversation_is_read_in_part(books: Books, tmp_path: Path) -> None:
    chat = books.logger.open_conversation("ana", "Long")
    for number in range(70):
        say(books, f"page {number}", conversation=chat, thumb=0)
    say(books, "end", conversation=chat)
    for thing in THINGS:
        say(books, thing)
    made = generator(books).generate(tmp_path)
    long = next(row for row in taught(made) if len(row["messages"]) > 2)
    asked = [m["content"] for m in long["messages"] if m["role"] == "user"]
    assert asked == [f"Where is the page {n}?" for n in range(62, 70)] + ["Where is the end?"]


def test_only_thumbs_down_is_not_enough(books: Books, tmp_path: Path) -> None:
    for thing in THINGS:
        say(books, thing, thumb=-1)
    made = generator(books).generate(tmp_path)
    assert (made.enough, made.votes) == (False, 8)


def test_a_thousand_copies_of_one_answer_are_one_example(books: Books, tmp_path: Path) -> None:
    for number in range(300):
        say(books, "drill", user=f"user {number}")
    made = generator(books).generate(tmp_path)
    assert (made.examples, dropped(made)) == (1, {"the same again": 299})
    assert not made.enough


def test_a_liked_answer_of_a_hundred_thousand_characters_is_an_example_like_others(
    books: Books, tmp_path: Path
) -> None:
    for thing in THINGS:
        say(books, thing)
    long = " ".join(f"w{n}" for n in range(17_000))
    number = say(books, "encyclopedia", answer=long + " \ud800 \x00 \u202e a@b.de")
    made = generator(books).generate(tmp_path)
    (row,) = [row for row in taught(made) if row["id"] == number]
    assert len(row["messages"][-1]["content"]) > 100_000
    assert row["messages"][-1]["content"].endswith("?  \u202e [EMAIL]")


def test_a_thumb_on_a_cancelled_answer_teaches_nothing_and_says_so(
    books: Books, tmp_path: Path
) -> None:
    say(books, "drill", status=Status.CANCELLED, answer="It is", thumb=1)
    say(books, "mop", status=Status.CANCELLED, answer="It is not", thumb=-1)
    made = generator(books).generate(tmp_path)
    assert (made.examples, made.votes) == (0, 0)
    assert dropped(made) == {"answer cancelled": 2}
