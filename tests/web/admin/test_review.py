"""The review on the Data tab: one example at a time, decided by admins only, by what they were shown."""

import re
from typing import Any

import gradio as gr
import pytest

from cl import lineage
from cl.db import ratings as db_ratings
from cl.db import reports
from cl.db.tables import Interaction
from cl.house import House
from cl.records import Decision, Role
from cl.web.admin import AdminPage, data
from tests.fakes import talk
from tests.web.pages import ADMIN, Page, Site, everything_stored

BETTER = "A better answer, and the longest of all that wait here."
NASTY = "<script>alert(1)</script><img src=x onerror=\"alert('1')\">"
IDA = gr.Request(username="ida")
EVA = gr.Request(username="eva")


class Admin:
    """Somebody with the Data tab open: sends back what the page shows, as the page does."""

    def __init__(self, house: House, request: gr.Request = IDA) -> None:
        self.page = AdminPage(house)
        self.tab = self.page.data.review
        self.request = request
        self.open()

    def open(self, place: Any = None) -> None:
        self.take(self.tab.show(place, self.request))

    def take(self, view: tuple[Any, ...]) -> None:
        (
            self.heading,
            self.card,
            self.interaction,
            self.key,
            self.was,
            self.place,
            self.reason,
            self.actions,
            self.fields,
            self.deciding,
            self.editing,
            self.decided,
        ) = view

    def keep(self, reason: Any = "") -> None:
        shown = (self.interaction, self.key, self.was, self.place)
        self.take(self.tab.keep(*shown, reason, self.request))

    def exclude(self, reason: Any = "") -> None:
        shown = (self.interaction, self.key, self.was, self.place)
        self.take(self.tab.exclude(*shown, reason, self.request))

    def edit(self) -> tuple[str, str]:
        fields, deciding, editing, prompt, answer = self.tab.edit(self.interaction, self.request)
        assert (fields.visible, deciding.visible, editing.visible) == (True, False, True)
        return prompt, answer

    def save(self, prompt: Any, answer: Any, reason: Any = "") -> None:
        shown = (self.interaction, self.key, self.was, self.place, reason)
        self.take(self.tab.save(*shown, prompt, answer, self.request))

    def undo(self, key: Any) -> None:
        self.take(self.tab.undo(self.place, gr.EventData(None, {"name": key}), self.request))


@pytest.fixture
def admin(house: House) -> Admin:
    house.books.accounts.add("ida", Role.ADMIN, "system")
    house.books.accounts.add("eva", Role.ADMIN, "system")
    for n in range(4):
        talk(house, "ana", f"Question {n}?", thumb=1, correction=f"The answer is {n}.")
    return Admin(house)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The warnings the page shows."""
    found: list[str] = []
    monkeypatch.setattr(gr, "Warning", found.append)
    return found


# -- deciding ----------------------------------------------------------------------------------


def test_each_decision_shows_the_next_and_is_counted(house: House, admin: Admin) -> None:
    assert "4 waiting, 0 kept, 0 excluded, 0 edited" in admin.heading
    seen = [admin.interaction]
    admin.keep()
    seen.append(admin.interaction)
    admin.exclude("not for everybody")
    seen.append(admin.interaction)
    prompt, answer = admin.edit()
    assert (prompt, answer) == (f"Question {seen[2] - 1}?", f"The answer is {seen[2] - 1}.")
    admin.save(prompt, "Another answer.")
    assert admin.interaction not in seen
    assert "1 waiting, 1 kept, 1 excluded, 1 edited" in admin.heading
    found = {r.interaction_id: r for r in house.books.reviews.decisions().values()}
    assert [found[n].decision for n in seen] == [Decision.KEEP, Decision.EXCLUDE, Decision.EDIT]
    assert (found[seen[1]].reason, found[seen[1]].actor) == ("not for everybody", "ida")
    assert (found[seen[2]].prompt, found[seen[2]].answer) == (prompt, "Another answer.")
    assert reports.audit_trail()[0]["action"] == "review edit"
    for text in ("Another answer.", "not for everybody", "excluded", "kept", "edited"):
        assert text in admin.decided


def test_after_a_decision_the_fields_are_empty_and_closed(admin: Admin) -> None:
    admin.edit()
    admin.save("Question?", "Answer.", "a reason")
    assert (admin.reason, admin.actions.visible, admin.fields.visible) == ("", True, False)
    assert (admin.deciding.visible, admin.editing.visible) == (True, False)
    fields, deciding, editing = admin.tab.back(IDA)
    assert (fields.visible, deciding.visible, editing.visible) == (False, True, False)


def test_later_goes_on_without_deciding_and_begins_again(admin: Admin) -> None:
    seen = [admin.interaction]
    for _ in range(3):
        admin.take(admin.tab.later(admin.place, IDA))
        seen.append(admin.interaction)
    assert len(set(seen)) == 4
    assert "4 of 4" in admin.card
    admin.keep()
    assert (admin.interaction, admin.place) == (seen[0], 0)
    assert "1 of 3" in admin.card


def test_with_nothing_left_there_is_nothing_to_press(house: House, admin: Admin) -> None:
    for _ in range(4):
        admin.keep()
    assert "Nothing waits for a decision." in admin.card
    assert (admin.interaction, admin.actions.visible) == (None, False)
    assert "0 waiting, 4 kept" in admin.heading
    for act in (admin.keep, admin.exclude, lambda: admin.save("a", "b"), admin.edit):
        with pytest.raises(gr.Error, match=r"no interaction 0|not there any more"):
            act()


def test_a_decision_is_undone_and_waits_again(house: House, admin: Admin, told: list[str]) -> None:
    number, key = admin.interaction, admin.key
    admin.exclude()
    assert f"data-name='{key}'" in admin.decided
    admin.undo(key)
    assert (admin.interaction, told) == (number, [])
    assert "4 waiting, 0 kept, 0 excluded" in admin.heading
    for forged in (key, "", None, NASTY):
        admin.undo(forged)
    assert told == ["The state has changed: this was taken back already."] * 4


def test_an_edit_without_an_answer_is_refused_and_changes_nothing(admin: Admin) -> None:
    before = everything_stored()
    for answer in ("", "  ", None, "\x00"):
        with pytest.raises(gr.Error, match="An edit needs an answer"):
            admin.save("Question?", answer)
    with pytest.raises(gr.Error, match="reason has 301 characters"):
        admin.keep("x" * 301)
    assert everything_stored() == before


# -- two at once -------------------------------------------------------------------------------


def test_the_slower_of_two_tabs_is_told_and_shown_what_is_there_now(
    house: House, admin: Admin, told: list[str]
) -> None:
    other = Admin(house, EVA)
    assert other.interaction == admin.interaction
    admin.keep("faster")
    before = everything_stored()
    other.exclude("slower")
    assert told == ["The state has changed: somebody has decided this already."]
    assert everything_stored() == before
    assert (other.interaction, other.key) == (admin.interaction, admin.key)
    assert "3 waiting, 1 kept" in other.heading
    other.exclude()
    assert "2 waiting, 1 kept, 1 excluded" in other.heading


def test_a_correction_written_meanwhile_is_not_decided_unseen(
    house: House, admin: Admin, told: list[str]
) -> None:
    better = "A longer answer than all the others, which nobody has looked at."
    house.books.logger.record_feedback(admin.interaction, "ana", correction=better)
    seen, interaction = admin.key, admin.interaction
    for act in (admin.keep, admin.exclude, lambda: admin.save("a", "b")):
        admin.key = seen
        act()
        assert admin.interaction == interaction
        assert admin.key != seen
    assert told == ["The state has changed: this is not the same answer any more."] * 3
    assert house.books.reviews.decisions() == {}
    assert better in admin.card


def test_a_chat_taken_out_meanwhile_is_refused(house: House, admin: Admin) -> None:
    (conversation,) = {
        e.conversation_id for e in [house.books.reviews.example(admin.interaction)] if e
    }
    house.books.logger.set_learning("ana", conversation, False)
    with pytest.raises(gr.Error, match="asked not to learn"):
        admin.keep()
    admin.open()
    assert "3 waiting" in admin.heading


def test_forged_numbers_change_nothing(house: House, admin: Admin, told: list[str]) -> None:
    before = everything_stored()
    for forged in ("", None, "x", "-1", "999", 2**70, "1e5", [1], NASTY):
        with pytest.raises(gr.Error, match="There is no interaction"):
            admin.tab.keep(forged, admin.key, "", 0, "", IDA)
    for key in ("", None, "x", NASTY):
        admin.tab.keep(admin.interaction, key, "", 0, "", IDA)
    assert len(told) == 4
    for place in ("", None, "x", "-1", "99999", 2**70, NASTY):
        admin.open(place)
        assert "1 of 4" in admin.card
    assert everything_stored() == before


# -- showing -------------------------------------------------------------------------------------


def test_the_card_shows_all_there_is_to_judge(house: House, admin: Admin) -> None:
    chat = house.books.logger.open_conversation("ben", "x")
    talk(house, "ben", "Earlier question?", conversation=chat)
    talk(house, "ben", "Later question?", conversation=chat, thumb=-1, correction=BETTER)
    admin.open()
    for text in (
        "Earlier question?", "Later question?", "That is a good question", BETTER,
        "correction", "thumb down", "from ben", "1 of 5", "The answer it got",
    ):  # fmt: skip
        assert text in admin.card


def test_nothing_people_write_becomes_markup(house: House, admin: Admin) -> None:
    chat = house.books.logger.open_conversation("ana", NASTY)
    talk(house, "ana", NASTY, conversation=chat)
    talk(house, "ana", f"{NASTY} again", conversation=chat, thumb=-1, correction=NASTY * 3)
    Interaction.update(answer=NASTY).where(Interaction.prompt.startswith(NASTY)).execute()
    admin.open()
    assert admin.card.count("&lt;script&gt;") == 7  # two turns before, question, answer, three
    prompt, answer = admin.edit()
    assert (prompt, answer) == (f"{NASTY} again", NASTY * 3)  # as text in a field
    admin.save(f"{prompt}!", f"{answer}!", NASTY)
    assert "&lt;script&gt;" in admin.decided
    admin.open()
    assert not re.search("<script|<img", admin.card + admin.decided + admin.heading)


def test_the_tab_arrives_through_the_queue(site: Site) -> None:
    talk(site.house, "ana", "Reviewed through the queue?", thumb=1)
    page = Page(site.browser(ADMIN), "/admin")
    *_, number, key, was, place = page.run("open_review", None)[:6]
    shown = page.run("exclude", number, key, was, place, "")
    assert "1 excluded" in shown[0]
    assert "1 excluded" in page.run("undo", place, event_data={"name": "x"})[0]
    assert "0 excluded" in page.run("undo", place, event_data={"name": key})[0]


# -- the table -----------------------------------------------------------------------------------


def ratings(admin: Admin, *wanted: str, below: str = "") -> tuple[list[str], str]:
    """The questions of a page of the table, and where to look on."""
    filters = [*wanted, "", "", "", ""][:4]
    table, older, *_ = admin.tab.ratings.older(*filters, below, IDA)
    return re.findall(r">(Question [^<]*)<", table), older


def test_the_table_shows_what_was_said_filtered_and_page_by_page(
    house: House, admin: Admin
) -> None:
    for number in range(40):
        talk(house, "ben", f"Question b{number}?", thumb=1 if number % 2 else -1)
    house.books.logger.record_feedback(44, "ben", reasons=("Incomplete",), comment="not all of it")
    first, older = ratings(admin)
    assert first == [f"Question b{n}?" for n in range(39, 14, -1)]
    second, end = ratings(admin, below=older)
    assert second == [f"Question b{n}?" for n in range(14, -1, -1)] + [
        f"Question {n}?" for n in (3, 2, 1, 0)
    ]
    assert end == ""
    assert ratings(admin, "down")[0] == [f"Question b{n}?" for n in range(38, -1, -2)]
    assert ratings(admin, "corrected")[0] == [f"Question {n}?" for n in (3, 2, 1, 0)]
    assert ratings(admin, "commented")[0] == ["Question b39?"]
    assert ratings(admin, "", "", "Incomplete")[0] == ["Question b39?"]
    assert ratings(admin, "", "", "", "v0001")[0] == []
    assert len(ratings(admin, "", "", "", "base")[0]) == 25
    for forged in ("nonsense", "'; drop table feedback", NASTY):
        assert ratings(admin, forged, forged, forged)[0] == first


def test_a_rare_filter_reaches_back_step_by_step(
    house: House, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db_ratings, "_REACH", 10)
    for number in range(30):
        talk(house, "ben", f"Question b{number}?", thumb=1)
    seen, below, pages = [], "", 0
    while pages == 0 or below:
        found, below = ratings(admin, "corrected", below=below)
        seen += found
        pages += 1
    assert seen == [f"Question {n}?" for n in (3, 2, 1, 0)]
    assert pages == 4  # of 34 ratings, ten at a time


def test_any_rating_is_opened_and_a_decision_changed(house: House, admin: Admin) -> None:
    admin.take(admin.tab.open(0, gr.EventData(None, {"name": "2"}), IDA))
    assert "chosen by you" in admin.card
    assert "Question 1?" in admin.card
    admin.exclude("not this one")
    assert ratings(admin, "", "exclude")[0] == ["Question 1?"]
    assert ratings(admin, "", "waiting")[0] == [f"Question {n}?" for n in (3, 2, 0)]
    admin.take(admin.tab.open(0, gr.EventData(None, {"name": "2"}), IDA))
    assert "excluded</span>" in admin.card
    admin.keep("it is right after all")
    (made,) = house.books.reviews.decisions().values()
    assert (made.decision, made.reason) == (Decision.KEEP, "it is right after all")
    for forged in ("999", "", "x", NASTY):
        with pytest.raises(gr.Error, match="not there any more"):
            admin.tab.open(0, gr.EventData(None, {"name": forged}), IDA)


def test_all_that_wait_in_the_table_are_excluded_at_once(house: House, admin: Admin) -> None:
    admin.keep()
    talk(house, "ben", "Not learnable?", thumb=-1)
    page = admin.page
    page.dialog.asked = []
    asked = admin.tab.ratings.ask_exclude_all("corrected", "", "", "", IDA)
    assert asked[3] == "Exclude 3 examples?"
    with pytest.raises(gr.Error, match="Please type 3"):
        page.dialog.confirm(*asked[1:4], "spam", "", IDA)
    page.dialog.confirm(*asked[1:4], "spam", "3", IDA)
    counts = house.books.reviews.counts()
    assert (counts[Decision.KEEP], counts[Decision.EXCLUDE]) == (1, 3)
    assert reports.audit_trail()[0]["action"] == "review exclude all"
    for press in (
        lambda: page.dialog.confirm(*asked[1:4], "spam", "3", IDA),
        lambda: admin.tab.ratings.ask_exclude_all("", "", "", "", IDA),
    ):
        with pytest.raises(gr.Error, match="Nothing in this table waits"):
            press()
    assert admin.tab.after("promote", 0, IDA) == gr.skip()
    admin.take(admin.tab.after("exclude-all", 0, IDA))
    assert "0 waiting, 1 kept, 3 excluded" in admin.heading


def test_the_card_tells_which_versions_learned_it(house: House, admin: Admin) -> None:
    for _ in range(9):
        talk(house, "ben", "Where is the key?", thumb=-1, correction="In safe 12.")
    house.loop.request_training("ida", "to see")
    house.worker.run_until_quiet()
    taught = next(iter(lineage.listed_in(house.books.runs / "0001" / "data", "train")))
    admin.take(admin.tab.open(0, gr.EventData(None, {"name": str(taught)}), IDA))
    assert "taught v0001" in admin.card


# -- the scorer ----------------------------------------------------------------------------------


def test_the_scorer_is_shown_with_what_it_has_and_what_it_lacks() -> None:
    info = {
        "name": "s0003",
        "stage": "current",
        "labels": 1234,
        "ups": 1000,
        "downs": 234,
        "auc": 0.71,
        "auc_low": 0.68,
        "auc_high": 0.74,
        "brier": 0.1412,
        "calibration_error": 0.021,
        "may_select": True,
        "text": NASTY,
    }
    shown = data.scorer(info)
    for text in ("s0003", "1,234", "1,000 up, 234 down", "0.710", "0.68 to 0.74", "0.141", "0.021"):
        assert text in shown
    assert "decides what is learned" in shown
    assert "<script>" not in shown
    bare = data.scorer(dict.fromkeys(info))
    assert "decides nothing" in bare
    assert not re.search(r"None|nan", bare)
    assert data.scorer({}) == bare
