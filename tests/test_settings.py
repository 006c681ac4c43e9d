"""Every knob: where its value comes from, what is refused, and what hosts may set."""

import os
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path
from typing import Any

import pytest

from cl.settings import (
    Settings,
    SettingsError,
    child_environment,
    load_settings,
    settings_table,
)


def values(settings: Settings) -> dict[str, Any]:
    """Every setting by its name in the environment."""

    def walk(found: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        for name, value in found.items():
            if isinstance(value, dict):
                yield from walk(value)
            else:
                yield f"CL_{name.upper()}", value

    return dict(walk(asdict(settings)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Started in an empty folder with none of our names in the environment."""
    for name in list(os.environ):
        if name.startswith(("CL_", "GRADIO_", "SPACE_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_promised_numbers_are_the_defaults() -> None:
    found = values(load_settings({}))
    promised = {
        "CL_MIN_NEW_SAMPLES": 1000,
        "CL_MAX_DAYS": 7,
        "CL_MAX_QUALITY_DROP": 0.10,
        "CL_MAX_ERROR_RATE": 0.20,
        "CL_MIN_QUALITY": 0.7,
        "CL_MAYBE_QUALITY": 0.5,
        "CL_MAYBE_SCORE": 0.8,
        "CL_MIN_EXAMPLES": 50,
        "CL_MIN_CORRECTIONS": 15,
        "CL_CHALLENGER_SHARE": 0.10,
        "CL_MIN_TEST_HOURS": 48,
        "CL_MIN_TEST_SAMPLES": 100,
        "CL_MIN_LIFT": 0.05,
        "CL_LATENCY_BUDGET": 10,
        "CL_CHECK_MINUTES": 60,
        "CL_PORT": 7860,
        "CL_HOST": "127.0.0.1",
        "CL_AUTH": "accounts",
        "CL_DATA_DIR": Path("data"),
    }
    assert {name: found[name] for name in promised} == promised


def test_text_becomes_the_kind_the_setting_has() -> None:
    found = load_settings({"CL_PORT": " 8000 ", "CL_MAX_DAYS": "2", "CL_DATA_DIR": "/srv/chat"})
    assert (found.port, found.trigger.max_days, found.data_dir) == (8000, 2.0, Path("/srv/chat"))
    assert load_settings({"CL_HOST": " ::1 "}).host == "::1"
    assert isinstance(found.trigger.max_days, float)


def test_names_of_other_programs_are_none_of_our_business() -> None:
    assert load_settings({"PATH": "/bin", "CLASSPATH": "x", "PORT": "1"}) == Settings()


@pytest.mark.parametrize("name", ["CL_PROT", "CL_", "CL_CHAT", "CL_TRIGGER", "CL_IS_DEMO"])
def test_an_unknown_name_is_refused_by_that_name(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"no setting {name};"):
        load_settings({name: "1"})


def test_unknown_names_are_refused_in_defaults_and_overrides_too() -> None:
    with pytest.raises(SettingsError, match="CL_COLOUR"):
        load_settings({}, {"colour": "red"})
    with pytest.raises(SettingsError, match="CL_COLOUR"):
        load_settings({}, colour="red")


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("CL_PORT", "http", "is not a whole number"),
        ("CL_PORT", "80.5", "is not a whole number"),
        ("CL_PORT", "0", "must be from 1 to 65535"),
        ("CL_PORT", "65536", "must be from 1 to 65535"),
        ("CL_TEMPERATURE", "warm", "is not a number"),
        ("CL_TEMPERATURE", "nan", "is not a number"),
        ("CL_TEMPERATURE", "inf", "is not a number"),
        ("CL_COOLDOWN_HOURS", "-0.1", "must be at least 0"),
        ("CL_MAX_DAYS", "0", "must be more than 0"),
        ("CL_CHALLENGER_SHARE", "0.51", "must be more than 0 and at most 0.5"),
        ("CL_PRESET", "Demo", "must be production or demo"),
        ("CL_AUTH", "none", "must be accounts or open"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_name_value_and_what_fits(
    name: str, text: str, problem: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({name: text})
    assert str(refused.value) == f"{name}={text!r} {problem}."


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CL_PORT", "1"),
        ("CL_PORT", "65535"),
        ("CL_COOLDOWN_HOURS", "0"),
        ("CL_TEMPERATURE", "2"),
        ("CL_CHALLENGER_SHARE", "0.5"),
    ],
)
def test_a_value_at_its_bound_is_taken(name: str, text: str) -> None:
    assert values(load_settings({name: text}))[name] == float(text)


def test_no_number_can_be_negative() -> None:
    numbers = [
        name for name, value in values(Settings()).items() if not isinstance(value, str | Path)
    ]
    assert len(numbers) > 35
    for name in numbers:
        with pytest.raises(SettingsError, match=name):
            load_settings({name: "-1"})


def test_settings_cannot_be_changed_once_read() -> None:
    with pytest.raises(FrozenInstanceError):
        load_settings({}).port = 1  # type: ignore[misc]


def test_the_demo_preset_sets_what_the_table_says_and_nothing_else() -> None:
    production, demo = values(load_settings({})), values(load_settings({"CL_PRESET": "demo"}))
    changed = {name: str(value) for name, value in demo.items() if value != production[name]}
    assert changed.pop("CL_PRESET") == "demo"
    assert changed == {knob.env: knob.demo for knob in settings_table() if knob.demo}
    assert load_settings({"CL_PRESET": "demo"}).is_demo


def test_in_the_demo_the_loop_turns_in_minutes() -> None:
    demo = load_settings({"CL_PRESET": "demo"})
    assert demo.check_minutes < 1
    assert demo.trigger.cooldown_hours == 0
    assert demo.experiment.min_test_hours * 60 < 5


def test_a_value_of_ones_own_wins_over_the_preset() -> None:
    found = load_settings({"CL_PRESET": "demo", "CL_MIN_NEW_SAMPLES": "30"})
    assert (found.trigger.min_new_samples, found.trigger.cooldown_hours) == (30, 0.0)


def test_defaults_give_way_to_env_file_environment_and_overrides_in_this_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = {"port": "1", "data_dir": "elsewhere"}
    assert load_settings(defaults=defaults).port == 1
    (folder / ".env").write_text("CL_PORT=2\nCL_HOST\nOTHER=x\nCL_SYSTEM_PROMPT='Be kind.'\n")
    assert load_settings(defaults=defaults).port == 2
    monkeypatch.setenv("CL_PORT", "3")
    assert load_settings(defaults=defaults).port == 3
    found = load_settings(defaults=defaults, port="4")
    assert (found.port, found.data_dir) == (4, Path("elsewhere"))
    assert found.chat.system_prompt == "Be kind."


def test_a_mistake_in_the_env_file_is_refused_too(folder: Path) -> None:
    (folder / ".env").write_text("CL_PROT=1\n")
    with pytest.raises(SettingsError, match="CL_PROT"):
        load_settings()


@pytest.mark.usefixtures("folder")
def test_without_file_and_environment_everything_is_at_its_default() -> None:
    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("environ", "host", "port"),
    [
        ({"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": "9000"}, "0.0.0.0", 9000),
        ({"GRADIO_SERVER_PORT": "9000", "CL_PORT": "9001"}, "127.0.0.1", 9001),
        ({"GRADIO_SERVER_NAME": "0.0.0.0", "CL_HOST": "::1"}, "::1", 7860),
    ],
)
def test_gradios_names_are_honoured_where_ours_say_nothing(
    environ: dict[str, str], host: str, port: int
) -> None:
    found = load_settings(environ)
    assert (found.host, found.port) == (host, port)


def test_on_a_space_visitors_may_chat_from_anywhere() -> None:
    found = load_settings({"SPACE_ID": "ana/chat"})
    assert (found.space, found.auth, found.host) == ("ana/chat", "open", "0.0.0.0")


@pytest.mark.parametrize(
    ("more", "auth", "host"),
    [
        ({"CL_AUTH": "accounts"}, "accounts", "0.0.0.0"),
        ({"CL_HOST": "127.0.0.1"}, "open", "127.0.0.1"),
        ({"GRADIO_SERVER_NAME": "10.0.0.1"}, "open", "10.0.0.1"),
    ],
)
def test_what_is_set_on_a_space_by_hand_stays(more: dict[str, str], auth: str, host: str) -> None:
    found = load_settings({"SPACE_ID": "ana/chat", **more})
    assert (found.auth, found.host) == (auth, host)


def test_the_table_has_every_setting_once_with_its_group_default_and_meaning() -> None:
    table = settings_table()
    defaults = {name: str(value) for name, value in values(Settings()).items()}
    assert {knob.env: knob.default for knob in table} == defaults
    assert len(table) == len(defaults)
    assert all(knob.doc and knob.group.endswith(".") for knob in table)


def test_every_default_of_the_table_can_be_written_out_and_read_back() -> None:
    assert load_settings({knob.env: knob.default for knob in settings_table()}) == Settings()


def test_a_child_process_is_as_quiet_as_its_parent_and_gets_its_changes() -> None:
    found = child_environment(CL_PORT="1", DO_NOT_TRACK="2")
    assert found["PATH"] == os.environ["PATH"]
    assert (found["HF_HUB_OFFLINE"], found["GRADIO_ANALYTICS_ENABLED"]) == ("1", "False")
    assert (found["CL_PORT"], found["DO_NOT_TRACK"]) == ("1", "2")


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ({"CL_WINDOW": "30"}, "CL_MIN_WINDOW must not be more than CL_WINDOW"),
        ({"CL_MAYBE_QUALITY": "0.8"}, "CL_MAYBE_QUALITY must not be more than CL_MIN_QUALITY"),
        ({"CL_MAX_TEST_HOURS": "24"}, "CL_MIN_TEST_HOURS must not be more than CL_MAX_TEST_HOURS"),
    ],
)
def test_values_that_do_not_go_together_are_refused(low: dict[str, str], high: str) -> None:
    with pytest.raises(SettingsError, match=high):
        load_settings(low)


def test_an_empty_value_and_spaces_around_one_change_nothing() -> None:
    plain = load_settings({"CL_PRESET": "demo"})
    assert load_settings({"CL_PRESET": "demo ", "CL_DATA_DIR": "", "SPACE_ID": ""}) == plain
    assert load_settings({"CL_DATA_DIR": "~/chat"}).data_dir.is_absolute()
