"""Who writes the answers: all rows together, token by token, or one after the other.

A writer is given rows and says each token it has found to `accept`, which says whether the row
goes on. It knows nothing of queues, text or people.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from cl.model.base_model import one_at_a_time
from cl.model.engine.adapters import Adapter
from cl.model.engine.batch import Batch, Feed
from cl.model.engine.network import DAMAGED, Network
from cl.model.engine.rows import Accept, Row
from cl.model.engine.sampling import draw
from cl.model.versions import BadVersion
from cl.records import BASE

log = logging.getLogger(__name__)

# Prompt tokens read in one step, by device: few while most rows are being written, so that their
# next token does not take three times as long; many while most rows wait for their first one.
_CHUNKS = {"cpu": (32, 256), "cuda": (512, 4096)}


class BatchWriter:
    """Continuous batching: one token for every row that is being written, and a piece of the
    prompts that are being read, in one step of the network. Versions mix freely."""

    def __init__(self, network: Network, max_rows: int) -> None:
        self.context = network.context
        self.max_rows = max_rows
        self._network = network
        self._cache = network.new_cache(max_rows)
        self._adapters: dict[str, Adapter] = {}
        self._few, self._many = _CHUNKS.get(network.device.type, _CHUNKS["cuda"])

    def load(self, version: str, folder: Path) -> None:
        self._adapters[version] = self._network.load_adapter(folder)

    def drop(self, version: str) -> None:
        self._adapters.pop(version, None)
        self._cache.forget(version)

    def enter(self, row: Row) -> None:
        row.slot, row.fed = self._cache.take(row.version, row.prompt)

    def leave(self, row: Row) -> None:
        if not row.answer:  # nobody has looked yet whether what it wrote there are numbers
            self._cache.wipe(row.slot)
        self._cache.free(row.slot)

    def step(self, rows: Sequence[Row], accept: Accept) -> None:
        feeds = self._feeds(rows)
        try:
            found = self._forward(feeds)
        except Exception:
            # Whatever one version breaks must not end the answers of the others.
            log.exception("a step failed; each version is tried by itself")
            found = self._one_by_one(feeds)
        for row, token in found.items():
            accept(row, token)

    def _one_by_one(self, feeds: dict[Row, Feed]) -> dict[Row, int | Exception]:
        found: dict[Row, int | Exception] = {}
        for version in dict.fromkeys(row.version for row in feeds):
            mine = {row: feed for row, feed in feeds.items() if row.version == version}
            try:
                found |= self._forward(mine)
            except Exception as problem:
                log.exception("the step of %s failed", version)
                found |= dict.fromkeys(mine, problem)
        return found

    def _feeds(self, rows: Sequence[Row]) -> dict[Row, Feed]:
        reading = [row for row in rows if row.left > 1]
        chunk = self._many if 2 * len(reading) > len(rows) else self._few
        feeds: dict[Row, Feed] = {}
        for row in rows:
            tokens = row.next_tokens(chunk)
            if row.left > 1:
                chunk -= len(tokens)
            if tokens:
                wants_next = len(tokens) == row.left
                feeds[row] = Feed(row.slot, row.version, tokens, row.fed, wants_next)
        return feeds

    def _forward(self, feeds: dict[Row, Feed]) -> dict[Row, int | Exception]:
        """The next token of each row that is due for one."""
        adapters = {
            version: self._adapter(version) for version in {r.version for r in feeds} - {BASE}
        }
        batch = Batch(list(feeds.values()), self._network.device)
        logits = self._network.forward(batch, self._cache, adapters)
        due = [row for row, feed in feeds.items() if feed.wants_next]
        finite = torch.isfinite(logits.amax(-1))
        if not bool(finite.all()):
            logits = logits.masked_fill(~finite[:, None], 0.0)
        tokens = (
            draw(logits, [row.sampling for row in due], [row.dice for row in due]) if due else []
        )
        # From here on nothing can fail: a step that did is repeated from where it began.
        for row, feed in feeds.items():
            self._cache.slots[row.slot].tokens += feed.tokens
            row.fed += len(feed.tokens)
        found: dict[Row, int | Exception] = dict(zip(due, tokens, strict=True))
        for row, is_finite in zip(due, finite.tolist(), strict=True):
            if not is_finite:
                self._cache.wipe(row.slot)
                found[row] = ArithmeticError("the logits are not finite")
        return found

    def _adapter(self, version: str) -> Adapter:
        try:
            return self._adapters[version]
        except KeyError:
            raise BadVersion(f"{version} is not loaded.") from None


class GenerateWriter:
    """One answer after the other through transformers' own `generate`: any causal model.

    Raises BadVersion when the model computes nothing but nonsense.
    """

    max_rows = 1

    def __init__(self, model: Any, context: int) -> None:
        self.context = min(context, _positions(model.config))
        self._model = model
        self._peft: Any = None
        self._one = threading.Lock()  # peft changes the model while it loads a version
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[0, 1, 2]], device=model.device)).logits
        if not bool(torch.isfinite(logits).all()):
            raise BadVersion(DAMAGED)

    def load(self, version: str, folder: Path) -> None:
        from peft import PeftConfig, PeftModel

        with self._one, one_at_a_time():
            try:
                if self._peft is None:
                    config = PeftConfig.from_pretrained(str(folder))
                    self._peft = PeftModel(self._model, config, adapter_name=version).eval()
                self._peft.load_adapter(folder, adapter_name=version, local_files_only=True)
            except (RuntimeError, ValueError, LookupError, TypeError, OSError) as problem:
                self._remove(version)
                raise BadVersion(f"{folder} does not fit the base model: {problem}") from None

    def drop(self, version: str) -> None:
        with self._one:
            self._remove(version)

    def enter(self, row: Row) -> None: ...

    def leave(self, row: Row) -> None: ...

    def step(self, rows: Sequence[Row], accept: Accept) -> None:
        row = rows[0]
        try:
            with self._one, one_at_a_time(), self._speaking_as(row.version) as model:
                self._write(model, row, accept)
        except Exception as problem:
            log.exception("the answer of %s failed", row.version)
            accept(row, problem)

    def _remove(self, version: str) -> None:
        if self._peft is None or version not in self._peft.peft_config:
            return
        if len(self._peft.peft_config) > 1:
            self._peft.delete_adapter(version)
        else:
            self._model, self._peft = self._peft.unload(), None

    @contextmanager
    def _speaking_as(self, version: str) -> Iterator[Any]:
        if version == BASE:
            with self._peft.disable_adapter() if self._peft is not None else nullcontext():
                yield self._peft if self._peft is not None else self._model
        elif self._peft is None or version not in self._peft.peft_config:
            raise BadVersion(f"{version} is not loaded.")
        else:
            self._peft.set_adapter(version)
            yield self._peft

    def _write(self, model: Any, row: Row, accept: Accept) -> None:
        from transformers import (
            LogitsProcessor,
            LogitsProcessorList,
            StoppingCriteria,
            StoppingCriteriaList,
        )

        class OurDraw(LogitsProcessor):
            """The token is drawn here, as for every other row, and all others are ruled out."""

            def __call__(self, seen: Any, scores: Any) -> Any:
                if not torch.isfinite(scores.amax()):
                    raise ArithmeticError("the logits are not finite")
                token = draw(scores.float(), [row.sampling], [row.dice])[0]
                chosen = torch.full_like(scores, float("-inf"))
                chosen[:, token] = 0
                return chosen

        class OurEnd(StoppingCriteria):
            def __call__(self, seen: Any, scores: Any, **more: Any) -> Any:
                goes_on = accept(row, int(seen[0, -1]))
                return torch.full((len(seen),), not goes_on, device=seen.device)

        prompt = torch.tensor([row.prompt], device=model.device)
        with torch.inference_mode():
            model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=row.most_tokens,
                do_sample=False,
                eos_token_id=None,
                logits_processor=LogitsProcessorList([OurDraw()]),
                stopping_criteria=StoppingCriteriaList([OurEnd()]),
            )


def _positions(config: Any) -> int:
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len"):
        if isinstance(found := getattr(config, name, None), int):
            return found
    return 1 << 30
