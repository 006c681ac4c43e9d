"""A short soak; `python -m tests.bench.soak` runs a long one."""

from collections.abc import Iterator

import pytest
import torch

from tests.bench.soak import Report, soak

REQUESTS = 600


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Report]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield soak(tmp_path_factory.mktemp("soak"), REQUESTS)
    torch.set_num_threads(threads)


def test_every_request_ends_in_an_answer_or_is_sent_away(report: Report) -> None:
    assert set(report.fates) <= {"heard", "left", "sent away", "question"}
    assert sum(report.fates.values()) - report.fates["question"] == REQUESTS
    assert report.fates["heard"] > REQUESTS / 2
    assert report.fates["left"] > REQUESTS / 20
    assert report.fates["question"] >= 3
    assert report.swaps > 10


def test_every_answer_is_what_its_version_says_alone(report: Report) -> None:
    assert report.wrong == []


def test_nothing_is_left_behind(report: Report) -> None:
    assert report.left == 0
    assert report.late[1] <= report.early[1]  # threads
    assert report.growth_mb < 20
