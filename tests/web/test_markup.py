"""Our own markup: every value escaped, whatever it is, and never a crash on what is not there yet."""

from pathlib import Path

import pytest

from cl.rules.gating import Asked
from cl.web import look, markup
from cl.web.admin import service, standing, training
from cl.web.admin.service import Machine
from cl.web.markup import Markup
from tests.fakes import FakeClock, fake_settings

NASTY = "<img src=x onerror=\"alert('1')\">"


def test_texts_in_a_table_are_escaped_in_the_cell_and_in_its_title() -> None:
    found = markup.table(["<b>"], [[NASTY * 9], [Markup("<i>ours</i>")]], "")
    assert "<img" not in found
    assert "<b>" not in found
    assert "<i>ours</i>" in found
    assert "title='&lt;img src=x onerror=&quot;alert(&#x27;1&#x27;)&quot;&gt;&lt;img" in found


def test_a_long_text_is_shortened_and_whole_in_the_title() -> None:
    text = "word " * 100
    found = markup.table(["Text"], [[text]], "")
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
    assert f">{shown}</td>" in markup.table(["Value"], [[value]], "")


def test_an_empty_table_says_what_is_missing() -> None:
    assert (
        markup.table(["Name"], [], "Nobody <yet>.") == "<div class='none'>Nobody &lt;yet&gt;.</div>"
    )


@pytest.mark.parametrize(
    ("share", "width"),
    [(0.5, "50%"), (7.0, "100%"), (-1.0, "0%"), (float("nan"), "100%"), (float("inf"), "100%")],
)
def test_a_bar_never_leaves_its_card(share: float, width: str) -> None:
    assert f"width:{width}" in markup.card("Errors", "1", "", share=share)


def test_cards_and_the_header_are_escaped(tmp_path: Path) -> None:
    assert "<img" not in markup.card(NASTY, NASTY, NASTY, tag=NASTY)
    assert "<img" not in markup.button(NASTY, "open", NASTY, name=NASTY) + markup.link(NASTY, NASTY)
    assert "<img" not in look.header(fake_settings(tmp_path), None, NASTY, "chat")


def test_a_gauge_that_cannot_be_read_yet_shows_a_dash_and_no_bar() -> None:
    gauge = {"name": "quality_drop", "value": None, "threshold": 0.1, "unit": "share"}
    found = standing.gauges({"gauges": [{**gauge, "fires": False, "text": "Too few answers."}]})
    assert "<div class='v'>-</div>" in found
    assert "class='bar'" not in found


@pytest.mark.parametrize(
    ("progress", "shown"),
    [
        (None, "generated"),
        ({"step": 0, "steps": 0}, "generated"),
        ({"step": 3, "steps": 12}, "step 3 of 12, 25%"),
    ],
)
def test_a_training_shows_its_steps_once_it_counts_them(
    progress: dict[str, int] | None, shown: str
) -> None:
    run = {"id": 4, "status": "generated", "cancelling": True, "reason": NASTY}
    found = training.job({**run, "progress": progress}, "", None)
    assert f"{shown}</div>" in found
    assert "being cancelled" in found
    assert "<img" not in found


def test_what_is_wrong_stands_on_top_and_is_escaped() -> None:
    found = {"headline": NASTY, "phase": "Collecting"}
    now = FakeClock().now
    shown = standing.sentence(found, [NASTY, "Nothing was logged."], (now, None), now)
    assert shown.count("role='alert'") == 2
    assert shown.index("Nothing was logged.") < shown.index("headline")
    assert "<li aria-current=step>Collecting</li>" in shown
    assert "<img" not in shown


def test_answers_that_changed_from_right_to_wrong_stand_first() -> None:
    lost = Asked("general", "Lost?", "It is 7.", "It is 8.", ("7",))
    won = Asked(
        "taught", "Won?", "No idea.", "The hall.", ("hall",), reference="In the hall.", id=3
    )
    plain = Asked("everyday", NASTY, NASTY, NASTY)
    shown = training.answers(
        [plain, won, lost], {"version": "v0002", "result": {"parent": "v0001"}}
    )
    assert shown.index("Lost?") < shown.index("Won?") < shown.index("everyday")
    assert "v0001 said" in shown
    assert "v0002 said" in shown
    assert "In the hall." in shown
    assert "<img" not in shown
    assert "has not been asked anything" in training.answers([], None)


# -- the engine --------------------------------------------------------------------------------

MACHINE = Machine(2**30, 3 * 2**30, 4 * 2**30, 50 * 2**30, 5 * 2**20)


def test_the_service_tab_says_how_the_engine_runs_and_why_not_better() -> None:
    found = {
        "kind": "embedded",
        "stage": "prepacked",
        "why": "Not compiled: there is no C++ compiler (g++) on this machine.",
        "device": "processor",
        "loaded": ["base", "v0001"],
        "rows": 3,
        "max_rows": 8,
        "waiting": 5,
        "steps": 1234,
        "step_ms": 10.5,
        "tokens": 4321,
        "prompt_tokens": 1000,
        "reused_tokens": 250,
        "answers": {"stop": 7, "length": 1},
    }
    shown = service.cards(found, MACHINE)
    for text in (
        "prepacked", "there is no C++ compiler", "3 of 8", "base, v0001", "10.5 ms", "1,234 steps",
        "4,321", "25% of them known already", "1 length, 7 stop",
    ):  # fmt: skip
        assert text in shown
    assert ">5</div>" in shown


def test_the_service_tab_shows_each_inference_server() -> None:
    servers = [
        {"url": "http://10.0.0.7:8000", "ok": True, "running": 2},
        {"url": "http://10.0.0.8:8000", "ok": False, "running": 0},
    ]
    found = {"kind": "remote", "stage": "vllm", "why": "", "loaded": [], "waiting": 0}
    shown = service.cards({**found, "servers": servers}, MACHINE)
    assert "2 answers being written" in shown
    assert "gives no answer" in shown
    assert "nothing yet" in shown


def test_the_machine_says_what_is_left() -> None:
    found = {"kind": "remote", "stage": "vllm", "why": "", "loaded": [], "waiting": 0}
    shown = service.cards(found, MACHINE)
    for text in ("1.0 GiB", "3.0 of 4.0 GiB are free", "width:25%", "50 GiB free", "5 MiB"):
        assert text in shown
    assert "usage.db" not in service.cards(found, Machine(1, 1, 1, 1, None))
