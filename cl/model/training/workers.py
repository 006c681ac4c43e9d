"""The processes that train together: one, unless `torchrun` or `accelerate launch` started more."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor

from cl.model.training.child import Forsaken, TrainingProblem
from cl.settings import launched_processes

T = TypeVar("T")


class Workers:
    """This process among its like. Every one of them must call `agree`, `add_up` and `wait` alike."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @classmethod
    def joined(cls) -> "Workers":
        """Together with the processes that were launched with this one, if any were."""
        launched = launched_processes()
        if launched.size == 1:
            return cls()
        if torch.cuda.is_available():
            torch.cuda.set_device(launched.local_rank)
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(launched.rank, launched.size)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of the items."""
        return items[self.rank :: self.size]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over all processes into each tensor."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _together():
            torch.distributed.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def agree(self, digest: str) -> None:
        """Raise TrainingProblem if this text is another one in another process."""
        if self.size == 1:
            return
        number = int(hashlib.sha256(digest.encode()).hexdigest()[:12], 16)  # float64 holds 53 bits
        device = "cuda" if torch.cuda.is_available() else "cpu"
        total = torch.tensor([number], dtype=torch.float64, device=device)
        self.add_up([total])
        if total.item() != number * self.size:
            raise TrainingProblem(
                "the processes that train together would learn different things; "
                "give all of them the same files, the same release and the same kind of machine"
            )

    def wait(self) -> None:
        """Until all have come as far as this."""
        if self.size > 1:
            with _together():
                torch.distributed.barrier()

    def leave(self) -> None:
        if self.size > 1:
            torch.distributed.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as problem:
        raise Forsaken(f"another process of this training has ended ({problem})") from None
