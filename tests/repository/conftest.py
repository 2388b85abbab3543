"""Tests of the model repository alone: they load neither torch nor a model that was trained."""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Test files are imported one by one (importlib mode); what they share lies beside them.
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from model_family import CHANGES, NAMES, publish_family  # noqa: E402 - found by the line above
from repository_state import tune_version  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def _nobody_waits_for_the_disk() -> Iterator[None]:
    """No test cuts the power, and waiting for the disk would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _descriptor: None)
        yield


@pytest.fixture(scope="session")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """(kill|full, change) -> a folder with `start` and, for each step at which it was interrupted, STEP/repository.

    Every change is gone through once a session; tests copy what they change.
    """

    @functools.cache
    def run(how: str, change: str) -> Path:
        folder = tmp_path_factory.mktemp("interrupted")
        for version in CHANGES[change]:
            publish_family(folder / "start", version)
        if change == "publish onto latest":
            write_as_the_first_exports_did(folder / "start")
        command = [str(HERE / "interrupted_change.py"), how, change.partition(" ")[0], str(folder / "start")]
        done = subprocess.run([sys.executable, *command, str(folder)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return folder

    return run


def write_as_the_first_exports_did(repository: Path) -> None:
    """Without a seal, and serving the newest version."""
    for name in NAMES:
        path = repository / name / "config.pbtxt"
        text = path.read_text().partition("\n")[2]
        path.write_text(text.replace("specific { versions: [ 1 ] }", "latest { num_versions: 1 }"))


@pytest.fixture(scope="session")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 and 2 of the family; whoever changes something puts it back, or takes `repo`."""
    folder = tmp_path_factory.mktemp("two") / "repository"
    publish_family(folder, 1)
    publish_family(folder, 2, concepts=6)
    tune_version(folder, 1)
    return folder


@pytest.fixture
def repo(two_versions: Path, tmp_path: Path) -> Path:
    """A copy of `two_versions` to change."""
    return Path(shutil.copytree(two_versions, tmp_path / "repository"))
