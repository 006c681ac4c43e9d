"""The operations compiled for this processor: `kernels.cpp`, a compiler, and a check.

Compiling takes a second and happens once; the library is kept beside the models, named by
everything it depends on, so one made elsewhere or earlier is never loaded by mistake. It is used
only after it has computed the same as torch does.
"""

import ctypes
import hashlib
import platform
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cl import files
from cl.model.engine.batch import Batch
from cl.model.engine.cache import Cache, Layout
from cl.model.engine.ops import Linear, LowRank, TorchOps, rounded
from cl.model.versions import BadVersion, verify, write_manifest

_SOURCE = Path(__file__).parent / "kernels.cpp"
_FLAGS = [
    "-O3",
    "-march=native",
    "-fopenmp",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-shared",
    "-fPIC",
]
_LIBRARY = "kernels.so"
_WIDTH = 32  # outputs in a block of packed weights, as in kernels.cpp

_P, _L, _F, _I = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int
_SIGNATURES = {
    "add_norm": [_P] * 4 + [_F] + [_L] * 2 + [_I],
    "gate": [_P] * 2 + [_L] * 2 + [_I],
    "rotate_and_store": [_P] * 9 + [_F] + [_L] * 4 + [_I],
    "attend": [_P] * 7 + [_F] + [_L] * 4 + [_I],
    "linear": [_P] * 5 + [ctypes.c_bool] + [_L] * 3 + [_I],
    "low_rank": [_P] * 6 + [_L] * 5 + [_I],
}


_compiling = threading.Lock()


class NotCompiled(RuntimeError):
    """There are no compiled operations; the text says why. Everything works without them, slower."""


class NativeOps(TorchOps):
    """The operations of TorchOps for bf16 on a processor."""

    def __init__(self, library: Path, *, int8: bool = False) -> None:
        super().__init__(torch.bfloat16, int8=int8)
        # PyDLL keeps Python's lock: handing it over takes longer than most of these calls.
        self._library: Any = ctypes.PyDLL(str(library))
        for name, arguments in _SIGNATURES.items():
            getattr(self._library, name).argtypes = arguments
            getattr(self._library, name).restype = None
        self._threads = torch.get_num_threads()
        self._scratch = torch.empty(0, dtype=torch.float32)

    def layout(self, head: int) -> Layout:
        return Layout(_WIDTH, (head // 2, _WIDTH, 2), 2, (head, 2))

    def add_norm(self, hidden: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        out = torch.empty(hidden.shape, dtype=torch.bfloat16)
        self._library.add_norm(
            hidden.data_ptr(), _at(delta), weight.data_ptr(),
            out.data_ptr(), eps, *hidden.shape, self._threads,
        )  # fmt: skip
        return out

    def gate(self, gate_up: Tensor) -> Tensor:
        tokens, size = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty(tokens, size, dtype=torch.bfloat16)
        self._library.gate(gate_up.data_ptr(), out.data_ptr(), tokens, size, self._threads)
        return out

    def rotate_and_store(
        self, qkv: Tensor, layer: int, batch: Batch, cache: Cache, net: Any
    ) -> None:
        weights = net.layers[layer]
        q_norm, k_norm = weights.q_norm, weights.k_norm
        self._library.rotate_and_store(
            qkv.data_ptr(), batch.cos.data_ptr(), batch.sin.data_ptr(),
            _at(q_norm), _at(k_norm),
            cache.keys[layer].data_ptr(), cache.values[layer].data_ptr(), batch.slots.data_ptr(),
            batch.positions.data_ptr(), net.eps, len(qkv), net.q_heads, net.k_heads, cache.capacity,
            self._threads,
        )  # fmt: skip

    def attend(self, qkv: Tensor, layer: int, batch: Batch, cache: Cache, net: Any) -> Tensor:
        out = torch.empty(len(qkv), net.q_heads * net.head, dtype=torch.bfloat16)
        scratch = self._room(2 * self._threads * (net.q_heads // net.k_heads) * cache.capacity)
        self._library.attend(
            qkv.data_ptr(), cache.keys[layer].data_ptr(), cache.values[layer].data_ptr(),
            batch.slots.data_ptr(), batch.positions.data_ptr(), out.data_ptr(), scratch,
            net.scaling, len(qkv), net.q_heads, net.k_heads, cache.capacity, self._threads,
        )  # fmt: skip
        return out

    def linear(self, weight: Tensor, bias: Tensor | None, *, exact: bool = False) -> Linear:
        if weight.shape[1] % 2:
            raise ValueError("an odd number of inputs is not made of pairs")
        (out, into), product = weight.shape, self._library.linear
        scale = None
        if self._int8:
            weight, scale = rounded(weight)
        packed, wide = _packed(weight), None if bias is None else bias.float().contiguous()
        dtype = torch.float32 if exact else torch.bfloat16

        def multiply(x: Tensor) -> Tensor:
            y = torch.empty(len(x), out, dtype=dtype)
            product(
                x.data_ptr(), packed.data_ptr(), _at(scale), _at(wide), y.data_ptr(), exact, len(x),
                into, out, self._threads,
            )  # fmt: skip
            return y

        return multiply

    def low_rank(self, down: Tensor, up: Tensor, ends: Sequence[int]) -> LowRank:
        rank, out = up.shape
        rank += rank % 2  # numbers go in pairs
        downs = functional.pad(down.view(len(ends), -1, down.shape[1]), (0, 0, 0, rank - len(up)))
        ups = functional.pad(up, (0, 0, 0, rank - len(up))).T
        packed_down = _packed(downs.reshape(-1, down.shape[1]))
        packed_up = torch.cat(
            [_packed(part).flatten() for part in ups.tensor_split(list(ends[:-1]))]
        )
        places = torch.tensor(ends)

        def add(x: Tensor, y: Tensor) -> None:
            inner = self._room(len(x) * len(ends) * rank)
            self._library.low_rank(
                x.data_ptr(), y.data_ptr(), packed_down.data_ptr(), packed_up.data_ptr(), places.data_ptr(),
                inner, len(x), x.shape[1], out, len(ends), rank, self._threads,
            )  # fmt: skip

        return add

    def _room(self, floats: int) -> int:
        if len(self._scratch) < floats:
            self._scratch = torch.empty(floats, dtype=torch.float32)
        return int(self._scratch.data_ptr())


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _packed(weight: Tensor) -> Tensor:
    """(out, in) -> (blocks of outputs, in / 2, _WIDTH, 2): in the order in which it is read."""
    out, into = weight.shape
    filled = functional.pad(weight, (0, 0, 0, -out % _WIDTH))
    return filled.view(-1, _WIDTH, into // 2, 2).transpose(1, 2).contiguous()


def compiled(head: int, group: int, folder: Path, *, int8: bool = False) -> NativeOps:
    """The compiled operations, made in `folder` if they are not there yet. Raises NotCompiled."""
    if head % 16:
        raise NotCompiled(f"heads of {head} numbers are not made of whole vectors")
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise NotCompiled("there is no C++ compiler (g++) on this machine")
    command = [compiler, *_FLAGS, f"-DHEAD={head}", f"-DGROUP={group}"]
    try:
        place = folder / f"kernels-{_fingerprint(command)}"
        with _compiling:
            if not _is_whole(place):
                _compile(command, place)
        return NativeOps(place / _LIBRARY, int8=int8)
    except (OSError, AttributeError) as problem:
        raise NotCompiled(f"the compiled operations cannot be loaded: {problem}") from None


def _compile(command: list[str], place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    with _unless_another_process_was_faster(place), files.new_folder(place) as aside:
        full = [*command, str(_SOURCE), "-o", str(aside / _LIBRARY)]
        try:
            done = subprocess.run(full, capture_output=True, text=True, timeout=300, check=False)
        except subprocess.TimeoutExpired:
            raise NotCompiled("the compiler took more than five minutes") from None
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no message"])[0]
            raise NotCompiled(f"the compiler failed: {said}")
        write_manifest(aside)


@contextmanager
def _unless_another_process_was_faster(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError:
        if not _is_whole(place):
            raise


def _is_whole(place: Path) -> bool:
    try:
        verify(place)
    except BadVersion:
        return False
    return True


def _fingerprint(command: list[str]) -> str:
    """Everything the library depends on: source, flags, compiler, torch and processor."""
    version = subprocess.run([command[0], "--version"], capture_output=True, check=False).stdout
    parts = [
        _SOURCE.read_bytes(),
        repr(command).encode(),
        version,
        torch.__version__.encode(),
        _processor(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> bytes:
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return b"\n".join(
        line for line in lines[:40] if line.startswith((b"model name", b"flags", b"Features"))
    )
