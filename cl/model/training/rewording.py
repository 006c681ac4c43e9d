"""Rows in new wordings, for one epoch at a time."""

from collections import defaultdict
from collections.abc import Sequence
from random import Random

from cl.model.training.rows import Row, RowReader
from cl.model.training.wordings import Wordings

_MOST_NEW = 3000  # rows an epoch: of a large set every question has many wordings of its own
_REHEARSED = 0.5  # share of the rehearsal rows that are asked in another wording


class Rewording:
    def __init__(self, reader: RowReader, wordings: Wordings, count: int) -> None:
        """`count` new wordings of each corrected question, as long as there are not too many."""
        self._reader = reader
        self._wordings = wordings
        self._count = count

    def taught(self, rows: Sequence[Row], dice: Random) -> list[Row]:
        """New rows with the answers of corrected questions that stand alone."""
        known = [(row, row.lesson) for row in rows if row.lesson and row.lesson.is_correction]
        alone = [(row, lesson) for row, lesson in known if lesson.stands_alone]
        same_answer = defaultdict(list)
        for _, lesson in alone:
            same_answer[lesson.answer].append(lesson.question)
        wanted = [one for one in alone for _ in range(self._count)]
        if len(wanted) > _MOST_NEW:
            wanted = dice.sample(wanted, _MOST_NEW)
        found = []
        for row, lesson in wanted:
            others = [q for q in same_answer[lesson.answer] if q != lesson.question]
            found.append(self._anew(row, lesson.question, dice, others))
        return [row for row in found if row]

    def rehearsed(self, rows: Sequence[Row], dice: Random) -> list[Row]:
        """The same rows, some in another wording: there, too, the model should stay like itself."""
        found: list[Row] = []
        for row in rows:
            if self._count and row.lesson and dice.random() < _REHEARSED:
                row = self._anew(row, row.lesson.question, dice, ()) or row
            found.append(row)
        return found

    def _anew(self, row: Row, question: str, dice: Random, others: Sequence[str]) -> Row | None:
        return self._reader.asked_anew(row, self._wordings.new(question, dice, others))
