"""A version as a model of its own."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from cl.cli.parser import run
from cl.model.base_model import BaseModel
from cl.model.merging import write_merged
from cl.model.versions import BadVersion, VersionStore, verify_adapter


def test_the_merged_model_says_what_base_and_adapter_say_together(
    tmp_path: Path, tiny: BaseModel, versions: VersionStore
) -> None:
    write_merged(tiny, versions, "v0001", tmp_path / "merged")
    ids = torch.tensor([[1, 5, 9, 3]])
    base = AutoModelForCausalLM.from_pretrained(tiny.folder, dtype=torch.float32)
    both = PeftModel.from_pretrained(base, str(versions.path("v0001")))
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    with torch.no_grad():
        merged, together = whole(ids).logits, both(ids).logits
        plain = both.unload()(ids).logits
    assert (merged - together).norm() < 0.05 * (together - plain).norm()
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template


def test_only_a_whole_version_is_merged_and_only_into_a_new_folder(
    tmp_path: Path, tiny: BaseModel, versions: VersionStore
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="name a folder that is not"):
        write_merged(tiny, versions, "v0001", tmp_path / "there")
    with pytest.raises(LookupError):
        write_merged(tiny, versions, "base", tmp_path / "merged")
    (versions.path("v0001") / "adapter_config.json").write_text("{}")
    with pytest.raises(BadVersion):
        write_merged(tiny, versions, "v0001", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_version_is_exported_from_the_command_line(
    tmp_path: Path, tiny: BaseModel, versions: VersionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CL_MODEL", str(tiny.folder))
    monkeypatch.setenv("CL_DATA_DIR", str(tmp_path))
    assert versions.folder == tmp_path / "models"
    whole, adapter = tmp_path / "whole", tmp_path / "adapter"
    assert run(["export", "--version", "v0001", "--merged", str(whole)]) == 0
    assert (whole / "model.safetensors").is_file()
    assert run(["export", "--version", "v0001", str(adapter)]) == 0
    assert verify_adapter(adapter, tiny.sha256)
    assert run(["export", "--version", "v0001", str(adapter)]) == 1  # there already
    assert run(["export", "--version", "v0099", str(tmp_path / "other")]) == 1
    assert run(["export", "--merged"]) == 1
