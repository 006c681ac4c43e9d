"""What an admin decides: asked first, checked again, done once; and what is live while it goes on."""

from collections.abc import Callable

from playwright.sync_api import expect

from tests.running import App
from tests.stage import ADMIN, OTHER, STEPS
from tests.web.browser.looking import Visit, rows

Open = Callable[..., Visit]


def active(seen: Visit) -> str:
    found: str = seen.page.evaluate("document.activeElement.id")
    return found


def test_the_dialog_takes_the_focus_keeps_it_and_gives_it_back(lived: App, open_page: Open) -> None:
    seen = open_page(lived, ADMIN, "/admin/")
    inside = "document.activeElement.closest('#dialog') !== null"
    seen.page.locator("#retire").focus()
    seen.page.keyboard.press("Enter")
    expect(seen.dialog).to_be_visible()
    expect(seen.dialog).to_have_attribute("aria-modal", "true")
    expect(seen.page.locator("#dialog-reason :is(input, textarea)")).to_be_focused()
    for key in ("Tab",) * 6 + ("Shift+Tab",) * 6:
        seen.page.keyboard.press(key)
        assert seen.page.evaluate(inside)
    seen.page.keyboard.press("Escape")
    expect(seen.dialog).to_be_hidden()
    expect(seen.page.locator("#retire")).to_be_focused()
    assert active(seen) == "retire"
    seen.open("Users")
    seen.page.get_by_role("button", name="deactivate ben").click()
    expect(seen.dialog).to_contain_text("Deactivate ben?")
    seen.page.click("#dialog-no")
    expect(seen.page.get_by_role("button", name="deactivate ben")).to_be_focused()


def test_before_the_minimum_no_page_speaks_of_a_winner(lived: App, open_page: Open) -> None:
    seen = open_page(lived, ADMIN, "/admin/")
    expect(seen.page.locator(".phases [aria-current]")).to_have_text("A/B test")
    for tab in ("Overview", "Versions"):
        seen.open(tab)
        seen.settle()
        text = seen.page.locator("#admin").inner_text().lower()
        for word in ("winner", "wins", "significant", "the verdict is"):
            assert word not in text
    seen.open("Overview")
    expect(seen.page.locator("#cards")).to_contain_text("too early to judge")
    expect(seen.page.locator("#plot-lift")).to_contain_text("do not conclude")


def test_promoting_wants_a_reason_and_the_name_and_is_done_once(
    promotable: App, open_page: Open
) -> None:
    seen, other = (open_page(promotable, ADMIN, "/admin/") for _ in range(2))
    name = seen.page.locator("#promote").inner_text().removeprefix("Promote ")
    count = "SELECT COUNT(*) FROM audit WHERE action = 'promote' AND subject = ?"
    for one in (seen, other):
        one.page.click("#promote")
        expect(one.dialog).to_contain_text(f"Promote {name}?")
    seen.page.click("#dialog-yes")
    seen.toast("Please write a reason")
    seen.confirm("liked more often")
    seen.toast(f"Please type {name} to confirm.")
    assert rows(promotable, count, name) == [(0,)]

    seen.page.fill("#dialog-typed :is(input, textarea)", name)
    seen.page.locator("#dialog-yes").dblclick()
    expect(seen.dialog).to_be_hidden()
    expect(seen.page.locator("#cards .card").first).to_contain_text(name)
    expect(seen.page.locator("#status")).to_contain_text(f"{name} is freshly promoted and watched")
    expect(seen.page.locator("#promote")).to_be_disabled()
    other.confirm("me too", name)
    other.toast("There is nothing to do that with")
    assert rows(promotable, count, name) == [(1,)]
    seen.open("Audit")
    line = seen.page.locator("#audit tbody tr").filter(has_text="liked more often")
    for text in (ADMIN, "promote", name):
        expect(line.first).to_contain_text(text)


def test_a_training_is_started_watched_and_cancelled_and_then_the_page_is_silent(
    trainable: App, open_page: Open
) -> None:
    seen, chat = open_page(trainable, ADMIN, "/admin/"), open_page(trainable, OTHER)
    seen.page.click("#retrain")
    expect(seen.dialog).to_contain_text("Start a training now?")
    seen.confirm("to see what happens")
    seen.open("Training")
    job = seen.page.locator("#job")
    expect(job).to_contain_text(f"of {STEPS}")
    first = int(job.locator(".v").inner_text().split()[1])
    expect(job).not_to_contain_text(f"step {first} of")
    later = int(job.locator(".v").inner_text().split()[1])
    assert later > first
    points = "document.querySelector('#plot-losses .js-plotly-plot').data[0].x.length"
    grown = seen.page.evaluate(points)
    assert grown > 0
    expect(seen.page.locator("#training-log")).to_contain_text("loss")
    chat.chat("A table while it trains")
    expect(chat.answer).to_contain_text("Service desk")
    seen.page.wait_for_function(f"{points} > {grown}")

    seen.page.click("#cancel")
    seen.confirm("seen enough")
    expect(job).to_contain_text("cancelled")
    seen.page.wait_for_timeout(2500)  # a last tick may be on its way
    asked: list[str] = []
    seen.page.on("request", lambda request: asked.append(request.url))
    seen.page.wait_for_timeout(5000)
    assert asked == []


def test_a_threshold_is_changed_holds_at_once_and_is_reset(stage: App, open_page: Open) -> None:
    seen = open_page(stage, ADMIN, "/admin/")
    seen.open("Settings")
    row = seen.page.locator(".knob", has_text="CL_MIN_NEW_SAMPLES")
    row.get_by_role("textbox").fill("many")
    row.get_by_role("button", name="Change").click()
    seen.toast("is not a whole number")
    row.get_by_role("textbox").fill("4321")
    seen.page.keyboard.press("Enter")
    expect(seen.dialog).to_contain_text("Set CL_MIN_NEW_SAMPLES from 1000 to 4321?")
    seen.confirm("fewer trainings")
    expect(row).to_contain_text("by ida")
    seen.open("Overview")
    expect(seen.page.locator("#gauges")).to_contain_text("4,321")
    seen.open("Settings")
    row.get_by_role("button", name="Reset").click()
    seen.confirm("as before")
    expect(row).not_to_contain_text("by ida")
    changes = rows(stage, "SELECT before, after FROM audit WHERE subject = 'CL_MIN_NEW_SAMPLES'")
    assert changes == [("1000", "4321"), ("4321", "1000")]


def test_a_person_is_added_and_deactivated(stage: App, open_page: Open) -> None:
    seen = open_page(stage, ADMIN, "/admin/")
    seen.open("Users")
    seen.page.fill("#user-name :is(input, textarea)", "emil")
    seen.page.click("#user-add")
    expect(seen.page.locator("#user-link")).to_contain_text("/signin?link=")
    seen.page.get_by_role("button", name="deactivate emil").click()
    seen.confirm("has left", "emil")
    expect(seen.page.locator("#users tr", has_text="emil")).to_contain_text("not active")
    seen.page.get_by_role("button", name="deactivate ida").click()
    seen.confirm("by mistake", "ida")
    seen.toast("ida is the last admin.")


def test_ratings_are_filtered_opened_decided_and_taken_away(lived: App, open_page: Open) -> None:
    seen = open_page(lived, ADMIN, "/admin/")
    seen.open("Data")
    table = seen.page.locator("#said tbody tr")
    expect(table).to_have_count(25)
    first = table.first.inner_text()
    seen.page.click("#said-older")
    expect(table.first).not_to_have_text(first)
    seen.page.click("#said-latest")
    seen.page.locator("#filter-vote input").click()
    seen.page.get_by_role("option", name="corrected").click()
    expect(seen.page.locator("#said tbody tr .pill", has_text="up")).to_have_count(0)
    seen.page.locator("#filter-version input").click()
    seen.page.get_by_role("option", name="v0001").click()
    expect(table.first).to_contain_text("v0001")
    better = table.first.locator("td").nth(6).inner_text()
    table.first.get_by_role("button", name="Open").click()
    expect(seen.page.locator("#review-card")).to_contain_text(better)
    seen.page.click("#review-exclude")
    expect(table.first).to_contain_text("excluded")
    with seen.page.expect_download() as taken:
        seen.page.locator("#said-csv a").click()
    text = taken.value.path().read_text(encoding="utf-8")
    assert better in text
    assert "v0002" not in text


def test_from_a_version_to_its_lessons_and_back(lived: App, open_page: Open) -> None:
    seen = open_page(lived, ADMIN, "/admin/")
    seen.open("Versions")
    seen.page.get_by_role("button", name="What taught v0002").click()
    lessons = seen.page.locator("#lessons-of")
    expect(lessons).to_contain_text("v0002 learned from")
    id_ = lessons.locator("tbody td.n").first.inner_text().replace(",", "")
    seen.page.fill("#lineage-of :is(input, textarea)", id_)
    seen.page.keyboard.press("Enter")
    expect(seen.page.locator("#learners")).to_contain_text("v0002")
