"""Who judges answers, when, and with which scorer."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cl.db import candidates
from cl.db.tables import Experiment, Interaction, Reading, Scorer
from cl.house import Books
from cl.records import BASE, Arm, Message, Outcome, Route, Status
from cl.scoring import Scoring
from tests.fakes import FakeReader, fake_books, write_adapter

GOOD = "The {} is kept in the small room on the second floor, beside the copier."
BAD = "what {} why not ask me later maybe i do not know"


def say(
    books: Books, number: int, *, good: bool, thumb: int = 0, status: Status = Status.COMPLETE
) -> int:
    """An answer that is plainly good or plainly bad, perhaps rated."""
    prompt = f"Where is the tool number {number}?"
    conversation = books.logger.open_conversation("ana", prompt)
    interaction = books.logger.log("ana", conversation, prompt, Route(BASE, Arm.DEFAULT))
    text = (GOOD if good else BAD).format(f"tool number {number}")
    books.logger.finish(interaction, Outcome(status, text, 1.0))
    if thumb:
        books.logger.record_feedback(interaction, "ana", thumb=thumb)
    return interaction


def rate(books: Books, count: int) -> None:
    """So many thumbs, up for the good answers and down for the bad ones."""
    for number in range(count):
        say(books, number, good=bool(number % 2), thumb=1 if number % 2 else -1)


def score_all(books: Books) -> None:
    while books.scoring.score_pending():
        pass


def quality(interaction: int) -> tuple[float | None, str | None]:
    row = Interaction.get_by_id(interaction)
    return row.quality, row.scorer


def test_before_there_are_thumbs_rules_judge_and_select_nothing(books: Books) -> None:
    good = say(books, 1, good=True)
    score_all(books)
    assert quality(good) == (1.0, "rules-1")
    assert books.scoring.may_select() == set()
    assert books.scoring.report()["stage"] == "prior"
    assert "too few thumbs" in books.scoring.report()["text"]


def test_only_complete_answers_are_judged(books: Books) -> None:
    broken = say(books, 1, good=True, status=Status.ERROR)
    score_all(books)
    assert quality(broken) == (None, None)


@pytest.mark.parametrize("count", [0, 1, 19])
def test_few_thumbs_make_no_scorer(books: Books, count: int) -> None:
    rate(books, count)
    assert books.scoring.retrain() == "rules-1"
    assert Scorer.select().count() == 0


def test_thumbs_make_a_scorer_that_tells_good_from_bad(books: Books, tmp_path: Path) -> None:
    rate(books, 60)
    assert books.scoring.retrain() == "scorer-0001"
    row = Scorer.get()
    assert row.may_select
    assert books.scoring.may_select() == {"scorer-0001"}
    assert row.report["labels"] == 60
    assert row.report["auc_low"] > 0.9
    good, bad = say(books, 901, good=True), say(books, 902, good=False)
    score_all(books)
    assert quality(good)[1] == quality(bad)[1] == "scorer-0001"
    assert (quality(good)[0] or 0) > 0.7 > 0.3 > (quality(bad)[0] or 0)
    folder = books.settings.data_dir / "scorers" / "scorer-0001"
    assert folder.is_dir()


def test_what_was_judged_stays_judged_and_scorers_are_never_changed(books: Books) -> None:
    rate(books, 40)
    early = say(books, 900, good=True)
    score_all(books)
    books.scoring.retrain()
    first = Scorer.get().sha256
    rate(books, 80)
    assert books.scoring.retrain() == "scorer-0002"
    score_all(books)
    assert quality(early) == (1.0, "rules-1")
    assert Scorer.get(Scorer.name == "scorer-0001").sha256 == first


def test_the_same_thumbs_make_no_new_scorer(books: Books) -> None:
    rate(books, 40)
    assert books.scoring.retrain() == books.scoring.retrain() == "scorer-0001"
    rate(books, 2)
    assert books.scoring.retrain() == "scorer-0002"


def test_a_running_test_keeps_the_scorer_it_started_with(books: Books) -> None:
    rate(books, 40)
    books.scoring.retrain()
    for name in ("v0001", "v0002"):
        write_adapter(books.models / name, {})
        books.ab_test.register(name, parent=BASE, run_id=None, sha256="0" * 64)
        books.ab_test.deploy_challenger(name)
    assert Experiment.get().scorer == "scorer-0001"
    rate(books, 20)
    assert books.scoring.retrain() == "scorer-0002"
    tested, other = say(books, 901, good=True), say(books, 902, good=True)
    Interaction.update(experiment_id=Experiment.get().id).where(Interaction.id == tested).execute()
    score_all(books)
    assert quality(tested)[1] == "scorer-0001"
    assert quality(other)[1] == "scorer-0002"


def test_a_rated_answer_is_read_once(books: Books) -> None:
    reader = FakeReader()
    scoring = Scoring(books.logger, books.settings.data_dir / "s", lambda: reader, books.clock)
    rate(books, 30)
    scoring.retrain()
    assert reader.read_so_far == Reading.select().count() == 30
    rate(books, 10)
    scoring.retrain()
    assert reader.read_so_far == 40


def test_another_reader_reads_anew(books: Books) -> None:
    rate(books, 30)
    books.scoring.retrain()

    class Other(FakeReader):
        name = "other-reader"

    reader = Other()
    scoring = Scoring(books.logger, books.settings.data_dir / "s", lambda: reader, books.clock)
    say(books, 99, good=True, thumb=1)
    scoring.retrain()
    assert reader.read_so_far == 31
    assert {row.reader for row in Reading.select()} == {"other-reader"}


def test_the_newest_scorer_judges_again_what_it_has_read(books: Books) -> None:
    rate(books, 40)
    score_all(books)
    books.scoring.retrain()
    unread = say(books, 99, good=True)
    ids = [1, 2, unread]
    examples = candidates.by_id(ids)
    bad, good, unknown = books.scoring.rescore([examples[i] for i in ids])
    assert good is not None
    assert bad is not None
    assert good > 0.7 > 0.3 > bad
    assert unknown is None


def test_chats_that_are_not_to_be_learned_from_train_no_scorer(books: Books) -> None:
    rate(books, 40)
    for conversation in range(1, 41):
        if conversation > 10:
            books.logger.set_learning("ana", conversation, False)
    assert books.scoring.retrain() == "rules-1"


def test_rated_answers_nobody_has_read_are_read_when_there_is_time(books: Books) -> None:
    rate(books, 30)
    assert books.scoring.read_rated() == 0  # no scorer yet: nothing would use it
    books.scoring.retrain()
    rate(books, 5)
    assert books.scoring.read_rated() == 5
    assert books.scoring.read_rated() == 0


def test_the_queue_outlives_a_restart(books: Books, tmp_path: Path) -> None:
    waiting = [say(books, number, good=True) for number in range(40)]
    books.database.close()
    again = fake_books(tmp_path / "data", books.clock)
    while again.scoring.score_pending():
        pass
    assert all(quality(id_)[0] is not None for id_ in waiting)
    again.database.close()


def test_in_the_background_answers_are_judged_by_themselves(books: Books) -> None:
    waiting = say(books, 1, good=True)
    books.scoring.start()
    try:
        deadline = time.monotonic() + 20
        while quality(waiting)[0] is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        books.scoring.stop()
    assert quality(waiting) == (1.0, "rules-1")
    later = say(books, 2, good=True)
    books.scoring.start()  # again, and twice is once
    books.scoring.start()
    try:
        while quality(later)[0] is None:
            assert time.monotonic() < deadline + 20
            time.sleep(0.01)
    finally:
        books.scoring.stop()


def test_a_reader_that_cannot_be_opened_is_told_and_the_thread_lives(books: Books) -> None:
    rate(books, 30)
    books.scoring.retrain()
    trouble = threading.Event()

    class Broken(FakeReader):
        def read(self, pairs: Sequence[tuple[Sequence[Message], str]]) -> NDArray[np.float32]:
            if not trouble.is_set():
                trouble.set()
                raise RuntimeError("no memory for the reader")
            return super().read(pairs)

    broken = Broken()
    folder = books.settings.data_dir / "scorers"
    scoring = Scoring(books.logger, folder, lambda: broken, books.clock, pause=0.05)
    waiting = say(books, 99, good=True)
    scoring.start()
    try:
        deadline = time.monotonic() + 20
        told = set()
        while quality(waiting)[0] is None:
            told.add(scoring.problem)
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        scoring.stop()
    assert "no memory for the reader" in told
    assert scoring.problem == ""


def test_a_crash_between_the_files_and_the_row_leaves_no_half_scorer(books: Books) -> None:
    rate(books, 40)
    left = books.settings.data_dir / "scorers" / "scorer-0001"
    left.mkdir(parents=True)
    (left / "head.json").write_text("half")
    assert books.scoring.retrain() == "scorer-0001"
    say(books, 99, good=True)
    fresh = Scoring(books.logger, left.parent, FakeReader, books.clock)
    assert fresh.score_pending() > 0
