"""From a base model on disk to a writer, by the fastest way that works on this machine.

Stages, best first; each falls back to the next one and says why:
    compiled    the operations of kernels.cpp, compiled here (processor, bf16)
    prepacked   torch, weights reordered for oneDNN (processor that multiplies bf16)
    torch       torch as it is (GPU; any processor)
    generate    transformers' own `generate`, one answer at a time (models of other builds)
"""

import json
import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cl.model.base_model import BaseModel, one_at_a_time
from cl.model.engine.native import NativeOps, NotCompiled, compiled
from cl.model.engine.network import NotLlamaLike, read, refuse_other_builds
from cl.model.engine.ops import TorchOps, can_prepack
from cl.model.engine.rows import Writer
from cl.model.engine.writers import BatchWriter, GenerateWriter
from cl.settings import ServingOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    writer: Writer
    stop_tokens: frozenset[int]
    stage: str
    why: str  # it is this stage and not a better one; empty for the best one
    device: str


def load(base: BaseModel, options: ServingOptions, folder: Path) -> Loaded:
    """The base model, ready to answer. What is compiled is kept in `folder`."""
    with ThreadPoolExecutor(1, "compiler") as pool, one_at_a_time():
        compiling = pool.submit(_native, base, options, folder)
        model = load_model(base, torch.float32 if options.weights == "fp32" else torch.bfloat16)
        writer, stage, why = _writer(model, options, compiling)
    stops = model.generation_config.eos_token_id
    return Loaded(
        writer,
        frozenset(stops if isinstance(stops, list) else [stops]),
        stage,
        why,
        torch.cuda.get_device_name() if model.device.type == "cuda" else "processor",
    )


def load_model(base: BaseModel, dtype: torch.dtype = torch.bfloat16) -> Any:
    """The base model as transformers has it, on the GPU if there is one."""
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with one_at_a_time():
        model = AutoModelForCausalLM.from_pretrained(
            base.folder, dtype=dtype, local_files_only=True, use_safetensors=True
        )
    return model.eval().to(device)


def _native(base: BaseModel, options: ServingOptions, folder: Path) -> NativeOps:
    """The compiled operations for this model. Raises NotCompiled."""
    if torch.cuda.is_available():
        raise NotCompiled("")
    if options.compile == "off":
        raise NotCompiled("CL_COMPILE is off")
    if options.weights == "fp32":
        raise NotCompiled("CL_WEIGHTS is fp32")
    config = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    try:
        heads = config["num_attention_heads"]
        head = config.get("head_dim") or config["hidden_size"] // heads
        group = heads // (config.get("num_key_value_heads") or heads)
    except (KeyError, TypeError):
        raise NotCompiled("the model does not say how its heads are made") from None
    return compiled(head, group, folder, int8=options.weights == "int8")


def _writer(
    model: Any, options: ServingOptions, compiling: "Future[NativeOps]"
) -> tuple[Writer, str, str]:
    reasons: list[str] = []
    try:
        refuse_other_builds(model)
        for stage, ops in _stages(model, options, compiling, reasons):
            try:
                network = read(model, ops, context=options.max_context)
                return BatchWriter(network, options.max_rows), stage, _sentence(reasons)
            except NotLlamaLike as problem:
                reasons.append(f"{stage}: {problem}")
    except NotLlamaLike as problem:
        reasons.append(f"in one batch: {problem}")
    log.warning("this model is served the slow way. %s", _sentence(reasons))
    return GenerateWriter(model, options.max_context), "generate", _sentence(reasons)


def _stages(
    model: Any, options: ServingOptions, compiling: "Future[NativeOps]", reasons: list[str]
) -> Iterator[tuple[str, TorchOps]]:
    """(name, operations), best first. A model that has no bf16 here is turned into float32."""
    try:
        yield "compiled", compiling.result()
    except NotCompiled as problem:
        if str(problem):
            reasons.append(f"compiled: {problem}")
    int8 = options.weights == "int8"
    if model.device.type == "cpu":
        if can_prepack(next(model.parameters())):
            yield "prepacked", TorchOps(torch.bfloat16, int8=int8)
        elif options.weights != "fp32":
            reasons.append("prepacked: this processor does not multiply bf16")
            model.float()
    yield "torch", TorchOps(model.dtype, int8=int8)


def _sentence(reasons: list[str]) -> str:
    return " ".join(f"Not {reason}." for reason in reasons)
