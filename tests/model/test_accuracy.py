"""The real model, base and two versions mixed in one batch, beside transformers in float32."""

from pathlib import Path

import pytest

from cl.model.base_model import prepare
from cl.settings import DEFAULT_MODEL
from tests.bench.accuracy import Closeness, measure


@pytest.fixture(scope="module")
def found(real_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Closeness]:
    return measure(prepare(DEFAULT_MODEL, real_model), tmp_path_factory.mktemp("versions"), 24)


def test_the_engine_says_what_float32_says(found: dict[str, Closeness]) -> None:
    assert found["compiled"].divergence <= 0.002
    assert found["compiled"].same_top >= 0.97
    # Its logits are rounded to bf16, as those of transformers in bf16 are: near ties fall otherwise.
    assert found["prepacked"].divergence <= 0.002
    assert found["prepacked"].same_top >= 0.95


def test_a_row_says_the_same_alone_and_in_company(found: dict[str, Closeness]) -> None:
    assert found["compiled"].same_alone >= 0.99


def test_weights_of_8_bits_are_a_little_less_exact(found: dict[str, Closeness]) -> None:
    assert found["compiled"].divergence < found["compiled, int8"].divergence <= 0.02
