"""The admin page's markup: every value escaped, whatever it is, and never a crash on what is not
there yet."""

from pathlib import Path

import pytest

from cl.rules.gating import Asked
from cl.web import look, panels
from cl.web.panels import Markup
from tests.fakes import FakeClock, fake_settings

NASTY = "<img src=x onerror=\"alert('1')\">"


def test_texts_in_a_table_are_escaped_in_the_cell_and_in_its_title() -> None:
    found = panels.table(["<b>"], [[NASTY], [Markup("<i>ours</i>")]], "")
    assert "<img" not in found
    assert "<b>" not in found
    assert "<i>ours</i>" in found
    assert "title='&lt;img src=x onerror=&quot;alert(&#x27;1&#x27;)&quot;&gt;'" in found


def test_a_long_text_is_shortened_and_whole_in_the_title() -> None:
    text = "word " * 100
    found = panels.table(["Text"], [[text]], "")
    assert found.count("word") == 100 + 32
    assert "…" in found


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.12345, "0.123"),
        (FakeClock().now, "2026-01-05 09:00"),
        ("", ""),
    ],
)
def test_values_read_as_people_write_them(value: object, shown: str) -> None:
    assert f">{shown}</td>" in panels.table(["Value"], [[value]], "")


def test_an_empty_table_says_what_is_missing() -> None:
    assert (
        panels.table(["Name"], [], "Nobody <yet>.") == "<div class='none'>Nobody &lt;yet&gt;.</div>"
    )


@pytest.mark.parametrize(
    ("share", "width"),
    [(0.5, "50%"), (7.0, "100%"), (-1.0, "0%"), (float("nan"), "100%"), (float("inf"), "100%")],
)
def test_a_bar_never_leaves_its_card(share: float, width: str) -> None:
    assert f"width:{width}" in panels.card("Errors", "1", "", share)


def test_cards_and_the_header_are_escaped(tmp_path: Path) -> None:
    assert "<img" not in panels.card(NASTY, NASTY, NASTY)
    assert "<img" not in look.header(fake_settings(tmp_path), None, NASTY, "chat")


def test_a_gauge_that_cannot_be_read_yet_shows_a_dash_and_no_bar() -> None:
    gauge = {"name": "quality_drop", "value": None, "threshold": 0.1, "unit": "share"}
    found = panels.gauges({"gauges": [{**gauge, "fires": False, "text": "Too few answers."}]})
    assert "<div class='v'>-</div>" in found
    assert "class='bar'" not in found


@pytest.mark.parametrize(
    ("progress", "shown"),
    [
        (None, "generated"),
        ({"step": 0, "steps": 0}, "generated"),
        ({"step": 3, "steps": 12}, "step 3 of 12"),
    ],
)
def test_a_training_shows_its_steps_once_it_counts_them(
    progress: dict[str, int] | None, shown: str
) -> None:
    run = {"id": 4, "status": "generated", "cancelling": True, "reason": NASTY}
    found = panels.job({**run, "progress": progress}, "", None)
    assert f"{shown}; being cancelled" in found
    assert "<img" not in found


def test_what_is_wrong_stands_on_top_and_is_escaped() -> None:
    found = {
        "headline": NASTY,
        "state": "CHAMPION",
        "test": None,
        "plan": None,
        "job": None,
        "champion": None,
        "challenger": None,
        **dict.fromkeys(
            ("thumbs_up", "thumbs_down", "corrections", "interactions", "people", "errors"), 0
        ),
    }
    shown = panels.overview(found, "", [NASTY, "Nothing was logged."])
    assert shown.count("role='alert'") == 2
    assert "Nothing was logged." in shown
    assert "<img" not in shown


def test_answers_that_changed_from_right_to_wrong_stand_first() -> None:
    lost = Asked("general", "Lost?", "It is 7.", "It is 8.", ("7",))
    won = Asked(
        "taught", "Won?", "No idea.", "The hall.", ("hall",), reference="In the hall.", id=3
    )
    plain = Asked("everyday", NASTY, NASTY, NASTY)
    shown = panels.answers([plain, won, lost], {"version": "v0002", "result": {"parent": "v0001"}})
    assert shown.index("Lost?") < shown.index("Won?") < shown.index("everyday")
    assert "v0001 said" in shown
    assert "v0002 said" in shown
    assert "In the hall." in shown
    assert "<img" not in shown
    assert "No version has been asked" in panels.answers([], None)
