"""The chat page: what people can do, and what they can make it do by sending something else.

The handlers are called as Gradio calls them, with what a browser may send; the last tests go through
Gradio's queue itself.
"""

import asyncio
import html
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from cl import files
from cl.db import candidates
from cl.db.tables import Conversation, Feedback, Interaction, Version
from cl.house import House
from cl.model.engine.contract import EngineError
from cl.records import Feedback as Said
from cl.records import Interaction as Record
from cl.records import Status
from cl.usage_logger import MAX_COMMENT, MAX_CORRECTION, MAX_TITLE
from cl.web.chat import ChatPage
from tests.fakes import DONT_KNOW, FakeClock
from tests.web.pages import ADMIN, OTHER, STAFF, Page, Site, deploy, everything_stored


class Person:
    """Somebody with the chat page open."""

    def __init__(self, house: House, name: str) -> None:
        self.page = ChatPage(house)
        self.request = gr.Request(username=name)

    def begin(self, text: Any, conversation: Any = None, private: Any = False) -> tuple[int, int]:
        return self.page.begin(text, conversation, private, "", self.request)[:2]

    def hear(self, conversation: Any, interaction: Any) -> list[Any]:
        """The answer as it is pushed to the page, to its end."""

        async def listen() -> list[Any]:
            pushes = self.page.answer(conversation, interaction, self.request)
            return [messages async for _, messages in pushes if messages != gr.skip()]

        return asyncio.run(listen())

    def stop(self, conversation: Any, interaction: Any) -> tuple[list[Any], Any]:
        """Hear the first words, press Stop. Returns what was pushed, and what is shown then."""

        async def listen() -> tuple[list[Any], Any]:
            pushes = self.page.answer(conversation, interaction, self.request)
            heard = (await anext(pushes))[1]
            pressed = asyncio.ensure_future(self.page.stopped(conversation, self.request))
            shown = [messages async for _, messages in pushes if messages != gr.skip()]
            assert texts(shown[-1]) == texts((await pressed)[1])
            return heard, shown[-1]

        return asyncio.run(listen())

    def leave(self, conversation: Any, interaction: Any, *, back: bool) -> list[list[str]]:
        """Hear the first words, begin a new chat; `back`: and return. Returns what is pushed then."""

        async def listen() -> list[list[str]]:
            pushes = self.page.answer(conversation, interaction, self.request)
            await anext(pushes)
            self.page.fresh("", self.request)
            if back:
                self.open(conversation)
            return [texts(box) async for _, box in pushes if box != gr.skip()]

        return asyncio.run(listen())

    def say(self, text: str, conversation: Any = None) -> tuple[int, int]:
        ids = self.begin(text, conversation)
        self.hear(*ids)
        return ids

    def rate(self, conversation: Any, liked: Any, index: Any = 1) -> tuple[Any, ...]:
        click = gr.LikeData(None, {"index": index, "value": ["..."], "liked": liked})
        return self.page.thumb(conversation, click, self.request)

    def open(self, conversation: Any) -> tuple[Any, ...]:
        return self.choose(conversation, "open")

    def choose(
        self, conversation: Any, act: str, open_: Any = None, **more: Any
    ) -> tuple[Any, ...]:
        """Click in the list of chats, while one of them is open."""
        click = gr.EventData(None, {"id": conversation, "act": act, **more})
        return self.page.pick("", open_, click, self.request)

    def titles(self, search: str = "", open_: Any = None) -> list[str]:
        """What the list of chats shows."""
        groups = self.page.sidebar.listed(search, open_, self.request)["groups"]
        return [item["title"] for group in groups for item in group["items"]]

    def again(self, conversation: Any, index: Any = 0) -> tuple[int, int]:
        """Ask for another answer to a message, and hear it."""
        click = gr.RetryData(None, {"index": index, "value": "..."})
        ids = self.page.again(conversation, "", click, self.request)[:2]
        self.hear(*ids)
        return ids

    def edit(self, conversation: Any, text: Any, index: Any = 0) -> tuple[int, int]:
        """Write a message in other words, and hear the answer."""
        click = gr.EditData(None, {"index": index, "previous_value": "...", "value": text})
        ids = self.page.edit(conversation, "", click, self.request)[:2]
        self.hear(*ids)
        return ids

    def sees(self, conversation: Any) -> list[str]:
        """The texts of an opened conversation."""
        return texts(self.open(conversation)[2])

    def more(
        self, interaction: Any, *, reasons: Any = (), comment: str = "", better: str = ""
    ) -> Any:
        return self.page.feedback.say_more(interaction, reasons, comment, better, self.request)


@pytest.fixture
def ana(house: House) -> Person:
    return Person(house, "ana")


@pytest.fixture
def ben(house: House) -> Person:
    return Person(house, "ben")


def texts(box: Any) -> list[str]:
    """What the conversation says: all of it at the end, or as it is while an answer grows."""
    if isinstance(box, list):
        return [message["content"] for message in box]
    return [message["content"][0]["text"] for message in box.value]


def row(house: House, interaction: int) -> Record:
    return next(r for r in house.books.logger.get_records() if r.id == interaction)


# -- talking ---------------------------------------------------------------------------------


def test_a_message_is_answered_shown_and_logged(house: House, ana: Person) -> None:
    conversation, interaction = ana.begin("  Who approves travel?  ")
    heard = ana.hear(conversation, interaction)
    logged = row(house, interaction)
    assert (logged.user, logged.prompt, logged.status) == (
        "ana",
        "Who approves travel?",
        Status.COMPLETE,
    )
    assert logged.answer.strip() == DONT_KNOW
    assert heard[0][0] == {"role": "user", "content": "Who approves travel?"}
    assert texts(heard[-1]) == ana.sees(conversation) == ["Who approves travel?", logged.answer]


def test_a_second_message_goes_on_in_the_same_conversation(house: House, ana: Person) -> None:
    conversation, first = ana.say("One")
    assert ana.say("Two", str(conversation)) == (conversation, first + 1)
    assert [t for t in ana.sees(conversation) if t in ("One", "Two")] == ["One", "Two"]
    assert len(house.books.logger.conversations("ana")) == 1


def test_an_example_is_sent_as_a_message(ana: Person) -> None:
    chosen = gr.SelectData(None, {"index": 0, "value": {"text": "Say hello."}})
    conversation = ana.page.example(None, False, "", chosen, ana.request)[0]
    assert ana.sees(conversation)[0] == "Say hello."


def test_conversations_are_listed_by_age_with_the_open_one_marked(
    clock: FakeClock, ana: Person, ben: Person
) -> None:
    ana.say("oldest")
    clock.skip(hours=8 * 24)
    ana.say("last week")
    clock.skip(hours=2 * 24)
    ana.say("yesterday")
    clock.skip(hours=24)
    newest = ana.say("today")[0]
    ben.say("of ben")
    groups = ana.page.sidebar.listed("", newest, ana.request)["groups"]
    listed = [(g["name"], i["title"], i["open"]) for g in groups for i in g["items"]]
    assert listed == [
        ("Today", "today", True),
        ("Yesterday", "yesterday", False),
        ("Previous 7 days", "last week", False),
        ("Older", "oldest", False),
    ]


def test_a_message_that_cannot_be_answered_is_refused_with_the_reason(ana: Person) -> None:
    for text in ("", None, " \n\t\x00 "):
        with pytest.raises(gr.Error, match="Write a message first"):
            ana.begin(text)
    with pytest.raises(gr.Error, match="has 8001 characters; at most 8000"):
        ana.begin("x" * 8001)
    assert not Conversation.select().exists()


def test_nobody_can_do_nothing(house: House) -> None:
    with pytest.raises(gr.Error, match="Sign in first"):
        ChatPage(house).begin("hello", None, False, "", gr.Request())


def test_an_engine_that_fails_says_why_and_the_row_says_error(house: House, ana: Person) -> None:
    house.engine.problem = EngineError("The model is tired.")
    ids = ana.begin("hello")
    with pytest.raises(gr.Error, match="The model is tired"):
        ana.hear(*ids)
    assert row(house, ids[1]).status is Status.ERROR
    assert ana.sees(ids[0])[1] == "*(the answer failed; please try again)*"
    house.engine.problem = None
    ana.say("again", ids[0])
    assert ana.sees(ids[0])[3].strip() == DONT_KNOW


def test_stopping_keeps_the_text_so_far(house: House, ana: Person) -> None:
    house.engine.ensure("base")
    ids = ana.begin("hello")
    heard, shown = ana.stop(*ids)
    assert row(house, ids[1]).status is Status.CANCELLED
    written = row(house, ids[1]).answer
    assert heard[1]["content"] == "That "
    assert written.startswith("That ")
    assert len(written) < len(DONT_KNOW)
    assert texts(shown) == ["hello", f"{written}\n\n*(stopped)*"]


def test_who_opens_another_chat_sees_nothing_of_the_answer_until_they_return(
    house: House, ana: Person
) -> None:
    house.engine.ensure("base")
    for back in (False, True):
        ids = ana.begin("hello")
        pushed = ana.leave(*ids, back=back)
        assert row(house, ids[1]).answer.strip() == DONT_KNOW
        assert pushed[-1:] == ([["hello", row(house, ids[1]).answer]] if back else [])


def test_the_way_to_stop_an_answer_is_in_its_own_chat_alone(house: House, ana: Person) -> None:
    house.engine.ensure("base")
    other = ana.say("before")[0]
    ids = ana.begin("hello")

    async def look() -> list[tuple[bool, bool]]:
        pushes = ana.page.answer(*ids, ana.request)
        await anext(pushes)
        shown = [ana.open(chat)[6] for chat in (other, None, ids[0])]
        with pytest.raises(gr.Error, match="is being written"):
            ana.begin("and another thing", ids[0])
        ana.begin("elsewhere it can be asked", other)
        [_ async for _ in pushes]
        return [(box.submit_btn, box.stop_btn) for box in (*shown, ana.open(ids[0])[6])]

    writes, rests = (False, True), (True, False)
    assert asyncio.run(look()) == [rests, rests, writes, rests]


# -- thumbs and better answers ---------------------------------------------------------------


def test_a_thumb_can_be_given_changed_and_taken_back(house: House, ana: Person) -> None:
    conversation, interaction = ana.say("hello")
    for liked, thumb, panel, icon in (
        (True, 1, False, "Like"),
        (False, -1, True, "Dislike"),
        (True, 1, False, "Like"),
        ("", 0, False, None),
    ):
        asked, offered, rated, *_ = ana.rate(conversation, liked)
        assert (asked.visible, offered.visible, rated) == (panel, thumb > 0, interaction)
        assert row(house, interaction).feedback.thumb == thumb
        assert ana.open(conversation)[2].feedback_value == [icon]
    assert Feedback.select().count() == 1


def test_each_thumb_lands_on_the_answer_it_stands_under(house: House, ana: Person) -> None:
    conversation, first = ana.say("one")
    second = ana.say("two", conversation)[1]
    ana.rate(conversation, False, index=3)
    ana.rate(conversation, True, index=[1, 0])
    assert [row(house, i).feedback.thumb for i in (first, second)] == [1, -1]


def test_a_thumb_on_an_answer_that_is_not_there_is_refused(ana: Person) -> None:
    conversation = ana.say("hello")[0]
    for index in (-1, 2, 99, "1", None, 1e9):
        with pytest.raises(gr.Error, match="not there any more"):
            ana.rate(conversation, True, index)
    assert not Feedback.select().exists()


def test_an_answer_cannot_be_rated_before_it_is_finished(ana: Person) -> None:
    conversation, interaction = ana.begin("hello")
    for rate in (lambda: ana.rate(conversation, True), lambda: ana.more(interaction, better="x")):
        with pytest.raises(gr.Error, match="still being written"):
            rate()
    assert not Feedback.select().exists()


def test_what_people_say_more_is_kept_beside_the_thumb(house: House, ana: Person) -> None:
    conversation, interaction = ana.say("hello")
    ana.rate(conversation, False)
    ana.more(str(interaction), reasons=["Incorrect"], comment=" so wrong ", better="It is Mirela.")
    said = row(house, interaction).feedback
    assert (said.thumb, said.reasons, said.comment, said.correction) == (
        -1,
        ("Incorrect",),
        "so wrong",
        "It is Mirela.",
    )
    again = ana.rate(conversation, False)  # the panel opens with what was said
    assert (again[4].value, *again[5:]) == (["Incorrect"], "so wrong", "It is Mirela.")


def test_what_cannot_be_kept_is_refused_whole(house: House, ana: Person) -> None:
    conversation, interaction = ana.say("hello")
    ana.rate(conversation, False)
    for said, told in (
        ({"reasons": ["Incorrect", "Boring"]}, "'Boring' is not one of the reasons"),
        ({"better": "x" * (MAX_CORRECTION + 1)}, "The correction has 8001 characters"),
        ({"comment": "x" * (MAX_COMMENT + 1)}, "The comment has 2001 characters"),
    ):
        with pytest.raises(gr.Error, match=told):
            ana.more(interaction, **{"better": "kept?", **said})
    assert row(house, interaction).feedback == Said(thumb=-1)


# -- again, and in other words --------------------------------------------------------------------


def test_a_regenerated_answer_takes_the_place_of_the_first_and_both_stay_in_the_log(
    house: House, ana: Person
) -> None:
    conversation, first = ana.say("hello")
    ana.rate(conversation, False)
    second = ana.again(conversation)[1]
    assert len(ana.sees(conversation)) == 2
    assert [row(house, i).regenerates for i in (first, second)] == [None, first]
    ana.rate(conversation, True)  # of the answer that is shown
    assert [row(house, i).feedback.thumb for i in (first, second)] == [-1, 1]
    assert list(candidates.regenerated(second)) == [(second, first)]


def test_an_edited_message_takes_away_what_had_followed_it(house: House, ana: Person) -> None:
    conversation, first = ana.say("one")
    second = ana.say("two", conversation)[1]
    ana.say("three", conversation)
    edited = ana.edit(conversation, [{"type": "text", "text": "2"}], index=2)[1]
    assert ana.sees(conversation)[::2] == ["one", "2"]
    fourth = ana.say("four", conversation)[1]
    assert ana.sees(conversation)[::2] == ["one", "2", "four"]
    context = house.books.logger.context(conversation, fourth)
    assert [m["content"] for m in context if m["role"] == "user"] == ["one", "2"]
    assert [r.prompt for r in house.books.logger.get_records()] == [
        "one",
        "two",
        "three",
        "2",
        "four",
    ]
    ana.rate(conversation, True, index=3)
    assert row(house, edited).feedback.thumb == 1
    # Other words are another question: no pair of answers to one.
    assert list(candidates.regenerated(fourth)) == []
    assert row(house, edited).regenerates == second
    assert row(house, first).regenerates is None


def test_what_is_not_shown_any_more_cannot_be_asked_again(house: House, ana: Person) -> None:
    conversation, first = ana.say("one")
    ana.again(conversation)
    with pytest.raises(LookupError, match="not there any more"):
        house.assistant.begin("ana", "one", conversation, regenerates=first)
    for index in (-1, 2, "0", None):
        with pytest.raises(gr.Error, match="not there any more"):
            ana.again(conversation, index)
    with pytest.raises(gr.Error, match="Write a message first"):
        ana.edit(conversation, " ")
    assert len(ana.sees(conversation)) == 2


# -- the list of chats ----------------------------------------------------------------------------


def test_chats_are_found_by_their_titles_and_by_what_was_said(ana: Person, ben: Person) -> None:
    conversation = ana.say("Where is the ladle?")[0]
    ana.say("and the SIEVE?", conversation)
    ana.say("100 % of it")
    ben.say("a sieve of ben's")
    assert ana.titles() == ["100 % of it", "Where is the ladle?"]
    assert ana.titles("sieve") == ana.titles(" Ladle ") == ["Where is the ladle?"]
    assert ana.titles(DONT_KNOW[:8]) == ana.titles()
    assert ana.titles("100 %") == ["100 % of it"]
    for nothing in ("1%0", "l_dle", "ben's", "'; DROP TABLE"):
        assert ana.titles(nothing) == []
    assert ana.page.sidebar.listed("zebra", None, ana.request)["nothing"] == (
        "No chat holds these words."
    )


def test_no_title_runs_in_the_page_that_lists_it(ana: Person) -> None:
    """The page makes a JavaScript template of the list."""
    ana.say("${alert(1)} `x` \\\\x41 {{value}} <b>&'\"")
    (title,) = ana.titles()
    assert not re.search(r"[$`{}<>'\"\\\\]", title)
    assert html.unescape(title) == "${alert(1)} `x` \\\\x41 {{value}} <b>&'\""


def test_a_chat_is_called_by_another_name(ana: Person) -> None:
    conversation = ana.say("hello")[0]
    ana.choose(conversation, "rename", title="  Greetings\x00 ")
    assert ana.titles() == ["Greetings"]
    ana.choose(conversation, "rename", title="x" * 5000)
    assert len(ana.titles()[0]) <= MAX_TITLE
    with pytest.raises(gr.Error, match="Write a name"):
        ana.choose(conversation, "rename", title=" ")


def test_a_deleted_chat_is_gone_for_its_owner_and_nothing_is_learned_from_it(
    house: House, ana: Person
) -> None:
    kept, gone = ana.say("kept")[0], ana.say("gone")[0]
    ana.rate(gone, True)
    listed, *others = ana.choose(gone, "delete", open_=kept)
    assert [i["title"] for group in listed["groups"] for i in group["items"]] == ["kept"]
    assert others == [gr.skip()] * 6  # what is open stays open
    assert ana.titles("gone") == []
    for use in USES.values():
        with pytest.raises(gr.Error, match="You have no"):
            use(ana, gone)
    assert gone in house.books.logger.private()
    assert len(list(house.books.logger.get_records())) == 2  # the log keeps it
    assert ana.choose(kept, "delete", open_=kept)[1] is None  # the open one makes room


# -- what the new version learned -----------------------------------------------------------------


def test_who_taught_the_new_champion_is_told_once_what_it_answers_now(
    house: House, ana: Person, ben: Person
) -> None:
    conversation, interaction = ana.say("Where is the ladle?")
    ana.rate(conversation, False)
    ana.more(interaction, better="On the hook.")
    ben.say("hello")
    deploy(house, "v0000")
    deploy(house, "v0001")
    Version.update(run_id=7).where(Version.name == "v0001").execute()
    learned = {"id": interaction, "kind": "taught", "question": "Where is the ladle?"}
    answers = {"before": "I don't know", "after": "On the hook <b>!", "keys": ["hook"]}
    write_run(house.books.runs / "0007", [interaction], [{**learned, **answers}])
    assert news_for(ana) == ""  # it is being tested
    house.books.ab_test.promote(actor="ida", reason="better", expected="v0001")
    told = news_for(ana)
    assert "Where is the ladle?" in told
    assert DONT_KNOW in told
    assert "On the hook &lt;b&gt;!" in told
    assert "v0001" not in told
    assert news_for(ben) == ""
    assert news_for(ana) == told  # until it was read
    ana.choose(conversation, "delete")
    assert "ladle" not in news_for(ana)
    assert ana.page.read(ana.request).visible is False
    assert news_for(ana) == ""


def news_for(person: Person) -> str:
    *_, panel, told = person.page.load(person.request)
    assert panel.visible is bool(told)
    return str(told)


def write_run(folder: Path, ids: list[int], answers: list[dict[str, Any]]) -> None:
    """What a training leaves that learned from these interactions."""
    files.write_json(folder / "data" / "manifest.json", {"ids": {"train": ids}})
    lines = (json.dumps({"needed": 0.5, **answer}) + "\n" for answer in answers)
    files.write_text(folder / "answers.jsonl", "".join(lines))


# -- a chat not to be learned from ---------------------------------------------------------------


def learns(conversation: Any) -> bool:
    return bool(Conversation.get_by_id(conversation).learn)


def is_private(person: Person, conversation: Any) -> Any:
    """The switch, as it is shown when the chat is opened."""
    return person.open(conversation)[5]


def test_the_choice_made_before_the_first_message_holds(ana: Person) -> None:
    private = ana.begin("Between us", None, True)[0]
    other = ana.begin("For everybody", None, False)[0]
    assert (learns(private), learns(other)) == (False, True)
    assert (is_private(ana, private), is_private(ana, other)) == (True, False)
    assert ana.page.fresh("", ana.request)[5] is False  # the next chat is one like any other


def test_an_example_begins_a_private_chat_too(ana: Person) -> None:
    chosen = gr.SelectData(None, {"index": 0, "value": {"text": "Say hello."}})
    assert not learns(ana.page.example(None, True, "", chosen, ana.request)[0])


def test_the_switch_works_at_any_time_and_both_ways(ana: Person) -> None:
    conversation = ana.say("hello")[0]
    for private in (True, False, True):
        assert ana.page.learning(private, str(conversation), ana.request) is private
        assert learns(conversation) is not private
        assert is_private(ana, conversation) is private


def test_the_switch_is_right_for_a_chat_that_only_the_search_finds(ana: Person) -> None:
    old = ana.begin("Between us", None, True)[0]
    for number in range(200):  # as many as are listed
        ana.begin(f"chat {number}")
    assert "Between us" not in ana.titles()
    assert ana.titles("between") == ["Between us"]
    assert is_private(ana, old) is True


def test_a_page_that_shows_an_old_choice_does_not_undo_the_new_one(ana: Person) -> None:
    conversation = ana.say("hello")[0]
    for private in (True, False):
        ana.page.learning(private, conversation, ana.request)
        ana.begin("from the other tab", conversation, not private)
        assert learns(conversation) is not private


def test_a_message_is_not_taken_in_without_its_choice(
    house: House, ana: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*told: Any) -> None:
        raise LookupError("it cannot be stored")

    monkeypatch.setattr(house.books.logger, "set_learning", fail)
    with pytest.raises(gr.Error, match="it cannot be stored"):
        ana.begin("Between us", None, True)
    assert not Conversation.select().exists()


def test_without_a_chat_the_switch_stores_nothing(ana: Person) -> None:
    before = everything_stored()
    for nothing in (None, ""):
        assert ana.page.learning(True, nothing, ana.request) is True
    with pytest.raises(gr.Error, match="Write a message first"):
        ana.begin("", None, True)
    assert everything_stored() == before


# -- forged ids ------------------------------------------------------------------------------

USES: dict[str, Callable[[Person, Any], object]] = {
    "open": lambda who, number: who.open(number),
    "rename": lambda who, number: who.choose(number, "rename", title="mine now"),
    "delete": lambda who, number: who.choose(number, "delete"),
    "again": lambda who, number: who.again(number),
    "edit": lambda who, number: who.edit(number, "mine now"),
    "begin": lambda who, number: who.begin("mine now", number),
    "answer": lambda who, number: who.hear(number, "1"),
    "stopped": lambda who, number: asyncio.run(who.page.stopped(number, who.request)),
    "thumb": lambda who, number: who.rate(number, True),
    "say_more": lambda who, number: who.more(number, better="mine now"),
    "learning": lambda who, number: who.page.learning(True, number, who.request),
}


FORGED = (
    "1",
    1,
    "-1",
    "0",
    "77",
    "abc",
    "1e3",
    "1; DROP TABLE user",
    "9" * 5000,
    "9" * 30,
    math.inf,
    [1],
    {},
)


@pytest.mark.parametrize("use", USES)
def test_an_id_that_is_not_ones_own_is_refused_and_changes_nothing(
    ana: Person, ben: Person, use: str
) -> None:
    assert ben.say("private") == (1, 1)
    ben.rate(1, True)
    ana.say("mine")
    before = everything_stored()
    for number in FORGED:
        with pytest.raises(gr.Error) as told:
            USES[use](ana, number)
        assert re.search("You have no|not there any more", str(told.value))
        assert "private" not in str(told.value)
    assert everything_stored() == before


def test_a_message_whose_answer_never_began_is_closed_and_can_be_asked_again(ana: Person) -> None:
    number, _, *_ = ana.page.begin("hello", None, False, "", ana.request)
    asyncio.run(ana.page.stopped(number, ana.request))
    (turn,) = ana.page._turns(ana.request, number)
    assert turn.status is Status.CANCELLED


def test_only_a_message_of_this_conversation_that_waits_can_be_answered(
    ana: Person, ben: Person
) -> None:
    ben.say("private")
    conversation, mine = ana.say("mine")  # has its answer already
    before = everything_stored()
    for interaction in (mine, "1", "-1", "77", "abc", "", None):
        with pytest.raises(gr.Error, match=r"no message|no interaction|not there|Open a conv"):
            ana.hear(conversation, interaction)
    assert everything_stored() == before


# -- through the queue -----------------------------------------------------------------------


def test_the_page_is_wired_from_message_to_better_answer(site: Site) -> None:
    page = Page(site.browser(STAFF))
    conversation, interaction, shown = page.chat("Who repairs chairs?")
    assert [m["content"][0]["text"].strip() for m in shown] == ["Who repairs chairs?", DONT_KNOW]
    click = {"index": 1, "value": ["..."], "liked": False}
    panel, thanks, rated, heading, reasons, *said = page.run(
        "thumb", conversation, event_data=click
    )
    assert (panel["visible"], thanks["visible"], rated) == (True, False, interaction)
    assert "What was wrong?" in heading
    assert (reasons["value"], said) == ([], ["", ""])
    page.run("say_more", rated, ["Incorrect"], "no", "Oskar repairs them.")
    stored = Feedback.get(Feedback.interaction == int(interaction))
    assert (stored.user, stored.thumb, stored.correction) == (STAFF, -1, "Oskar repairs them.")
    chosen = {"id": conversation, "act": "open"}
    assert page.run("pick", "", None, event_data=chosen)[2]["feedback_value"] == ["Dislike"]
    assert page.run("fresh", "")[2]["value"] == []
    assert page.run("learning", True, conversation) == [True]
    assert page.run("pick", "", None, event_data=chosen)[5] is True
    groups = page.run("listed", "CHAIRS", conversation)[0]["groups"]
    assert [item["title"] for group in groups for item in group["items"]] == ["Who repairs chairs?"]
    retry = {"index": 0, "value": "Who repairs chairs?"}
    assert page.run("again", conversation, "", event_data=retry)[:2] != [conversation, interaction]
    change = {"index": 0, "previous_value": "Who repairs chairs?", "value": "Who cooks?"}
    number, other, *_ = page.run("edit", conversation, "", event_data=change)
    page.run("answer", number, other)
    shown = page.open(number)[2]["value"]
    assert [m["content"][0]["text"].strip() for m in shown] == ["Who cooks?", DONT_KNOW]
    assert (
        page.run("pick", "", conversation, event_data={**chosen, "act": "delete"})[2]["value"] == []
    )
    assert "You have no" in page.refusal("pick", "", None, event_data=chosen)


def test_another_persons_ids_are_refused_over_the_queue_too(site: Site) -> None:
    conversation, interaction, _ = Page(site.browser(STAFF)).chat("private")
    thief, before = Page(site.browser(OTHER)), everything_stored()
    click = {"index": 1, "value": ["..."], "liked": True}
    told = [
        *(
            thief.refusal(
                "pick", "", None, event_data={"id": conversation, "act": act, "title": "x"}
            )
            for act in ("open", "rename", "delete")
        ),
        thief.refusal("again", conversation, "", event_data={"index": 0, "value": "private"}),
        thief.refusal("begin", "mine now", conversation, False, ""),
        thief.refusal("answer", conversation, interaction),
        thief.refusal("stopped", conversation),
        thief.refusal("thumb", conversation, event_data=click),
        thief.refusal("say_more", interaction, [], "", "mine now"),
    ]
    assert all(sentence.startswith("You have no") for sentence in told), told
    assert everything_stored() == before


def test_no_request_can_name_the_person_it_speaks_for(site: Site) -> None:
    page = Page(site.browser(STAFF))
    page.run("begin", "who am I?", None, False, "", username=ADMIN, request={"username": ADMIN})
    assert Interaction.select().order_by(Interaction.id.desc()).first().user == STAFF


def test_a_reason_that_was_not_offered_is_refused_by_the_page(site: Site) -> None:
    page = Page(site.browser(STAFF))
    interaction = page.chat("hello")[1]
    assert "Boring" in page.refusal("say_more", interaction, ["Boring"], "", "")
    assert not Feedback.select().where(Feedback.interaction == int(interaction)).exists()


@pytest.fixture
def site_with_a_test(site: Site) -> Iterator[Site]:
    """While a champion and a challenger share the conversations."""
    deploy(site.house, "v8001")
    deploy(site.house, "v8002")
    yield site
    site.house.books.ab_test.rollback(actor="test", reason="back to the base model")


def test_people_are_never_told_which_version_answers(site_with_a_test: Site) -> None:
    browser = site_with_a_test.browser(STAFF)
    page, seen = Page(browser), [browser.get("/").text]
    arms: set[str] = set()
    for _ in range(40):
        begun = page.messages("begin", "Who waters the plants?", None, False, "")
        number, interaction = begun[-2]["output"]["data"][:2]
        click = {"index": 1, "value": ["..."], "liked": False}
        seen += map(json.dumps, begun)
        seen += map(json.dumps, page.messages("answer", number, interaction))
        seen += map(json.dumps, page.messages("thumb", number, event_data=click))
        arms.add(Interaction.get_by_id(int(interaction)).arm)
        if len(arms) == 2:
            break
    opened = {"id": number, "act": "open"}
    seen += map(json.dumps, page.messages("pick", "", None, event_data=opened))
    seen += map(json.dumps, [page.config, page.messages("load"), page.messages("stopped", number)])
    assert arms == {"champion", "challenger"}
    assert "says a version" in "".join(seen)
    assert not re.search(r"v800\d|champion|challenger|experiment", "".join(seen))
