"""Plays the story with the fake engine and trainer in a process of its own, to be killed."""

from pathlib import Path

from cl.demo.story import Story, StoryClock, StoryFailed, story_settings
from cl.house import open_books, serve_alone, sweep_up
from tests.fakes import FakeReader, fake_house, fake_settings


def play(folder: Path) -> None:
    """What `python -m cl demo` does, with fakes; a file tells that the end was reached."""
    clock = StoryClock()
    with serve_alone(folder):
        books = open_books(story_settings(fake_settings(folder)), clock, FakeReader)
        sweep_up(books)
        house = fake_house(books)
        try:
            told = Story(house, clock, lambda text: None).play()
            (folder / "end").write_text(" ".join(told["states"]))
        except StoryFailed as problem:
            (folder / "dead end").write_text(str(problem))
        finally:
            house.close()


def ready() -> None:
    """Nothing, once all is imported."""
