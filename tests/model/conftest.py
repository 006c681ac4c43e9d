"""What the tests of the model room start from: a tiny real model, and engines around it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cl.model.base_model import BaseModel
from cl.model.engine.embedded import EmbeddedEngine
from cl.model.versions import VersionStore
from cl.records import BASE
from cl.settings import ServingOptions
from tests import tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """Read only: tests that change a model folder copy it first."""
    torch.set_num_threads(1)  # matrices this small only wait for a second thread
    return tiny_model.build(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def shared_versions(tiny: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> VersionStore:
    """A store that holds v0001, a version with random weights. Read only."""
    store = VersionStore(tmp_path_factory.mktemp("versions"), tiny.sha256)
    tiny_model.write_random_adapter(tiny, store.path("v0001"))
    return store


@pytest.fixture
def versions(tmp_path: Path, shared_versions: VersionStore) -> VersionStore:
    """The same, to be changed."""
    shutil.copytree(shared_versions.folder, tmp_path / "models")
    return VersionStore(tmp_path / "models", shared_versions.base_sha256)


def start(base: BaseModel, versions: VersionStore) -> EmbeddedEngine:
    """Two places and a short queue. Computes in float32: in bf16 the company a row has rounds it
    differently, and near ties would decide what these tests compare."""
    options = ServingOptions(max_rows=2, max_waiting=2, weights="fp32")
    engine = EmbeddedEngine(base, versions, options)
    engine.ensure(BASE)
    return engine


@pytest.fixture(scope="session")
def engine(tiny: BaseModel, shared_versions: VersionStore) -> Iterator[EmbeddedEngine]:
    """For tests that only ask. Both the base model and v0001 are loaded."""
    made = start(tiny, shared_versions)
    made.ensure("v0001")
    yield made
    made.close()


@pytest.fixture
def own_engine(tiny: BaseModel, versions: VersionStore) -> Iterator[EmbeddedEngine]:
    """For tests that load, break or close something. Its versions are in `versions`."""
    made = start(tiny, versions)
    yield made
    made.close()
