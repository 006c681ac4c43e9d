"""A version as a whole model of its own, for servers that know nothing of adapters."""

from pathlib import Path

from cl import files
from cl.model.base_model import BaseModel
from cl.model.versions import VersionStore


def write_merged(base: BaseModel, versions: VersionStore, name: str, folder: Path) -> None:
    """The base model with the adapter added into its weights, with tokenizer and model card.

    Raises BadVersion, LookupError for a name that is none, and FileExistsError for a folder that
    is there already.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoTokenizer

    from cl.model.engine.loading import load_model

    versions.check(name)
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; name a folder that is not.")
    # Added up in float32, and rounded once.
    wide = load_model(base, torch.float32)
    model = PeftModel.from_pretrained(wide, str(versions.path(name))).merge_and_unload()
    with files.new_folder(folder) as aside:
        model.to(torch.bfloat16).save_pretrained(aside)
        AutoTokenizer.from_pretrained(base.folder, local_files_only=True).save_pretrained(aside)
        card = versions.path(name) / "README.md"
        if card.exists():
            text = card.read_text(encoding="utf-8").replace("A LoRA adapter for", "Merged into", 1)
            (aside / "README.md").write_text(text.replace("library_name: peft\n", "", 1), "utf-8")
