"""The fastest way that works on this machine: which one is taken, what is said about it, and why.

Most compilers here are shell scripts that hand out a library made earlier, so that each story takes
milliseconds and can go wrong in its own way.
"""

import re
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cl.model.base_model import BaseModel, one_at_a_time
from cl.model.engine import native
from cl.model.engine.loading import Loaded, load
from cl.model.engine.native import NotCompiled, compiled
from cl.model.reader import Reader
from cl.model.versions import BadVersion, VersionStore
from cl.settings import ServingOptions
from tests.model.talking import ask, said, started
from tests.tiny_model import CONTEXT, VOCABULARY, build_around

WITHOUT = "prepacked" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "torch"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """With heads of a size that can be compiled."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
    )
    return build_around(tmp_path_factory.mktemp("base") / "model", LlamaForCausalLM(config))


@pytest.fixture(scope="module")
def library(request: pytest.FixtureRequest) -> Path:
    """The real one for that model; shared with test_native.py."""
    folder = Path(request.config.cache.mkdir("kernels"))
    try:
        return Path(compiled(16, 2, folder)._library._name)
    except NotCompiled as problem:
        pytest.skip(str(problem))


class Machine:
    """A machine with a compiler of its own, and a folder for what it makes."""

    def __init__(self, folder: Path, library: Path, patch: pytest.MonkeyPatch) -> None:
        self.models, self.tools, self._library = folder / "models", folder / "bin", library
        self._log = folder / "log"
        self.tools.mkdir()
        patch.setenv("PATH", str(self.tools))

    def install(self, work: str = "", version: str = "1.0") -> None:
        """A g++ that does this before it hands out the library; $out is where it goes."""
        script = (
            f'#!/bin/sh\n[ "$1" = --version ] && echo {version} && exit 0\n'
            f"PATH=/usr/bin:/bin; for out; do :; done\necho again >> {self._log}\n"
            f"{work}\ncp {self._library} $out\n"
        )
        self.write(script.encode())

    def write(self, program: bytes) -> None:
        path = self.tools / "g++"
        path.write_bytes(program)
        path.chmod(0o755)

    def start(self, base: BaseModel, **options: str) -> Loaded:
        return load(base, ServingOptions(**options), self.models)  # type: ignore[arg-type]

    @property
    def compiled(self) -> int:
        """How often the compiler was asked."""
        return len(self._log.read_text().splitlines()) if self._log.exists() else 0

    @property
    def kept(self) -> list[Path]:
        return sorted(self.models.iterdir()) if self.models.is_dir() else []


@pytest.fixture
def machine(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, library, monkeypatch)


def test_with_a_compiler_the_operations_are_compiled_once_and_kept(
    machine: Machine, base: BaseModel
) -> None:
    machine.install()
    for _ in range(3):
        loaded = machine.start(base)
        assert (loaded.stage, loaded.why) == ("compiled", "")
    assert (machine.compiled, len(machine.kept)) == (1, 1)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("", r"there is no C\+\+ compiler \(g\+\+\) on this machine"),
        (
            "echo 'kernels.cpp:1: error: no such thing' >&2; exit 1",
            "the compiler failed: .*no such",
        ),
        ("exit 1", "the compiler failed: no message"),
        ("exit 0", "cannot be loaded"),
        ("echo rubbish > $out; exit 0", "cannot be loaded"),
        (
            "cp /lib/x86_64-linux-gnu/libm.so.6 $out && exit 0",
            "cannot be loaded|the compiler failed",
        ),
    ],
)
def test_without_one_that_works_the_engine_is_slower_and_says_why(
    machine: Machine, base: BaseModel, program: str, reason: str
) -> None:
    if program:
        machine.install(program)
    for _ in range(2):
        loaded = machine.start(base)
        assert loaded.stage == WITHOUT
        assert loaded.why.startswith("Not compiled: ")
        assert re.search(reason, loaded.why), loaded.why
    assert not [path for path in machine.kept if path.name.startswith(".")]


def test_a_compiler_that_cannot_even_be_started_is_none(machine: Machine, base: BaseModel) -> None:
    machine.write(b"\0 made for another processor")
    loaded = machine.start(base)
    assert loaded.stage == WITHOUT
    assert loaded.why.startswith("Not compiled: ")


def test_an_engine_without_compiled_operations_answers_and_its_status_says_so(
    machine: Machine, base: BaseModel
) -> None:
    versions = VersionStore(machine.models, base.sha256)
    with started(base, versions, weights="bf16") as slow:
        answer = ask(slow, said("Hello"))[0]
        assert slow.status()["stage"] == WITHOUT
        assert "no C++ compiler" in slow.status()["why"]
    machine.install()
    with started(base, versions, weights="bf16") as fast:
        assert ask(fast, said("Hello"))[0][:2] == answer[:2]  # later tokens may be near ties
        assert (fast.status()["stage"], fast.status()["why"]) == ("compiled", "")


def test_a_damaged_library_is_made_anew(machine: Machine, base: BaseModel) -> None:
    machine.install()
    machine.start(base)
    path = machine.kept[0] / "kernels.so"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], bytes([whole[0] ^ 1]) + whole[1:], None):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        assert machine.start(base).stage == "compiled"
        assert path.read_bytes() == whole
    assert machine.compiled == 4


def test_a_library_of_another_source_compiler_or_processor_is_never_loaded(
    machine: Machine, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor touched: an older release of the app may use it again."""
    machine.install()
    machine.start(base)
    changes = [
        lambda: machine.install(version="2.0"),
        lambda: monkeypatch.setattr(native, "_processor", lambda: b"another one"),
        lambda: monkeypatch.setattr(native, "_FLAGS", [*native._FLAGS, "-g"]),
        lambda: monkeypatch.setattr(native, "_SOURCE", changed),
    ]
    changed = tmp_path / "kernels.cpp"
    changed.write_text(native._SOURCE.read_text() + "// changed\n")
    for number, change in enumerate(changes, start=2):
        before = {path: path.stat().st_mtime_ns for path in machine.kept}
        change()
        assert machine.start(base).stage == "compiled"
        assert (machine.compiled, len(machine.kept)) == (number, number)
        assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_model_with_other_heads_gets_a_library_of_its_own(
    machine: Machine, base: BaseModel
) -> None:
    machine.install()
    machine.start(base)
    assert compiled(32, 2, machine.models)
    assert compiled(16, 1, machine.models)
    assert machine.compiled == len(machine.kept) == 3


def test_where_nothing_can_be_written_the_engine_is_slower_and_says_why(
    machine: Machine, base: BaseModel
) -> None:
    machine.install()
    machine.models.write_text("a file where the folder should be")
    loaded = machine.start(base)
    assert loaded.stage == WITHOUT
    assert "cannot be loaded" in loaded.why


def test_when_another_process_was_faster_its_library_is_taken(
    machine: Machine, base: BaseModel, tmp_path: Path
) -> None:
    machine.install()
    machine.start(base)
    place, faster = machine.kept[0], tmp_path / "faster"
    place.rename(faster)
    machine.install(f"cp -r {faster} {place}")
    loaded = machine.start(base)
    assert (loaded.stage, loaded.why) == ("compiled", "")
    assert machine.kept == [place]


def test_engines_of_one_process_that_start_at_the_same_time_compile_once(machine: Machine) -> None:
    machine.install("sleep 0.1")
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: compiled(16, 2, machine.models), range(3)))
    assert (machine.compiled, len(machine.kept)) == (1, 1)


def test_models_are_put_together_one_after_the_other(machine: Machine, base: BaseModel) -> None:
    """Meanwhile torch's default dtype is another one, for every thread."""
    machine.install()
    with ThreadPoolExecutor(2) as pool:
        with one_at_a_time():
            torch.set_default_dtype(torch.bfloat16)
            try:
                loading, reading = pool.submit(machine.start, base), pool.submit(Reader, base)
                assert not wait([loading, reading], timeout=1).done
            finally:
                torch.set_default_dtype(torch.float32)
        assert loading.result().stage == "compiled"
        assert reading.result().size
    assert torch.get_default_dtype() == torch.float32


def test_a_library_that_computes_something_else_is_not_used(
    tmp_path: Path, base: BaseModel, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler may be wrong. This one is told to forget half of each root mean square."""
    wrong = tmp_path / "kernels.cpp"
    source = native._SOURCE.read_text()
    assert "sum / size + eps" in source
    wrong.write_text(source.replace("sum / size + eps", "sum / size / 4 + eps"))
    monkeypatch.setattr(native, "_SOURCE", wrong)
    monkeypatch.setattr(native, "_FLAGS", ["-O0", *native._FLAGS[1:]])
    loaded = load(base, ServingOptions(), tmp_path / "models")
    assert loaded.stage == WITHOUT
    assert re.search(r"^Not compiled: its logits come out .* standard deviations apart", loaded.why)


@pytest.mark.parametrize(
    ("options", "stage", "why"),
    [
        ({"weights": "fp32"}, "torch", "Not compiled: CL_WEIGHTS is fp32."),
        ({"compile": "off"}, WITHOUT, "Not compiled: CL_COMPILE is off."),
        ({"weights": "int8"}, "compiled", ""),
    ],
)
def test_the_settings_decide_and_are_named(
    machine: Machine, base: BaseModel, options: dict[str, str], stage: str, why: str
) -> None:
    machine.install()
    loaded = machine.start(base, **options)
    assert (loaded.stage, loaded.device) == (stage, "processor")
    assert loaded.why.startswith(why)
    assert bool(loaded.why) == bool(why)
    assert machine.compiled == (stage == "compiled")


def test_a_damaged_base_model_is_refused_with_a_sentence(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=1,
            intermediate_size=32,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
        )
    )
    model.model.layers[0].mlp.up_proj.weight.data[3, 3] = float("nan")
    base = build_around(tmp_path / "model", model)
    with started(base, VersionStore(tmp_path / "none", base.sha256)) as engine:
        for _ in range(2):
            with pytest.raises(BadVersion, match=r"^The base model computes values that are not"):
                engine.ensure("base")
        assert engine.status()["stage"] == "loading"
