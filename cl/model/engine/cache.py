"""Keys and values of the rows: one slot a row, and what free slots still remember.

A slot keeps what it holds after its answer has ended. The next prompt that begins alike (the next
turn of the same conversation; the same system prompt) starts where the two part.
"""

from dataclasses import dataclass, field
from itertools import takewhile

import torch
from torch import Tensor

_SMALLEST = 256  # tokens a slot has room for at first


@dataclass(frozen=True)
class Layout:
    """The positions in one unit and its shape, for keys and for values."""

    key_unit: int
    key_shape: tuple[int, ...]
    value_unit: int
    value_shape: tuple[int, ...]


@dataclass
class Slot:
    version: str = ""
    tokens: list[int] = field(default_factory=list)
    busy: bool = False
    used: int = 0  # when it was last taken: larger is later


class Cache:
    """keys and values: one tensor a layer, (slots, key heads, capacity / unit, *one unit).

    How a unit of positions is laid out is the business of the operations that read it.
    """

    def __init__(
        self,
        layers: int,
        k_heads: int,
        layout: Layout,
        *,
        slots: int,
        context: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.slots = [Slot() for _ in range(slots)]
        self.context = context
        self.capacity = 0
        self._taken = 0
        self._layout = layout

        def empty(unit_shape: tuple[int, ...]) -> list[Tensor]:
            return [
                torch.zeros(slots, k_heads, 0, *unit_shape, dtype=dtype, device=device)
            ] * layers

        self.keys, self.values = empty(layout.key_shape), empty(layout.value_shape)
        with torch.inference_mode():
            self.reserve(1)

    @torch.inference_mode()  # as the steps: torch refuses to mix
    def take(self, version: str, prompt: list[int]) -> tuple[int, int]:
        """A free slot for this prompt. Returns (slot, number of tokens it holds already).

        At least the prompt's last token is left to be read: the first answer token follows from it.
        """
        shared = [self._shared(slot, version, prompt) for slot in self.slots]
        donor = max(range(len(shared)), key=lambda i: (shared[i], self.slots[i].used))
        length, mine = shared[donor], self._free_slot(donor, shared[donor])
        if mine != donor and length:
            for states, unit in self._all():
                for layer in states:
                    layer[mine, :, : -(-length // unit)] = layer[donor, :, : -(-length // unit)]
        self._taken += 1
        self.slots[mine] = Slot(version, prompt[:length], True, self._taken)
        return mine, length

    def free(self, slot: int) -> None:
        self.slots[slot].busy = False

    @torch.inference_mode()
    def wipe(self, slot: int) -> None:
        """What is not a number would spread to others: even a masked place is multiplied by 0."""
        for states, _ in self._all():
            for layer in states:
                layer[slot] = 0.0
        self.slots[slot].version, self.slots[slot].tokens = "", []

    def forget(self, version: str) -> None:
        """Nothing starts from what this version has read any more."""
        for slot in self.slots:
            if slot.version == version:
                slot.version = ""

    def reserve(self, length: int) -> None:
        """Make room for rows of this length; doubles, so that it happens rarely."""
        if length <= self.capacity:
            return
        capacity = max(self.capacity, _SMALLEST)
        while capacity < length:
            capacity *= 2
        for states, unit in self._all():
            for index, old in enumerate(states):
                # Pages nobody writes to take no memory, so room in unused slots costs nothing.
                new = old.new_zeros(*old.shape[:2], capacity // unit, *old.shape[3:])
                for number, slot in enumerate(self.slots):
                    held = -(-len(slot.tokens) // unit)
                    new[number, :, :held] = old[number, :, :held]
                states[index] = new
        self.capacity = capacity

    def _all(self) -> tuple[tuple[list[Tensor], int], ...]:
        return (self.keys, self._layout.key_unit), (self.values, self._layout.value_unit)

    def _shared(self, slot: Slot, version: str, prompt: list[int]) -> int:
        if slot.version != version:
            return 0
        pairs = zip(slot.tokens, prompt[:-1], strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def _free_slot(self, donor: int, length: int) -> int:
        """The donor itself where little would be lost, else the slot unused for longest."""
        slot = self.slots[donor]
        if not slot.busy and 2 * length > len(slot.tokens):
            return donor
        free = [i for i, other in enumerate(self.slots) if not other.busy]
        return min(free, key=lambda i: (bool(self.slots[i].version), self.slots[i].used, i))
