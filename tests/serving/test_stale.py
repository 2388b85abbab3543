"""What killed runs left behind: it is removed, and what belongs to living ones is not."""

import os
import subprocess
from pathlib import Path

import pytest

from salf_serving.stale import own_mark, process_start, remove_stale

MEMORY = Path("/dev/shm")


@pytest.fixture
def left(tmp_path, monkeypatch):
    """Make shared memory and the two folders of a run under a mark; afterwards nothing is left."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "runs").mkdir()
    made: list[Path] = []

    def make(mark: str) -> list[Path]:
        paths = [MEMORY / f"salf_{mark.replace('-', '_')}_a1b2c3_{os.getpid()}_test"]
        paths[0].touch()
        for folder in (tmp_path / "runs" / f"run-{mark}-abcd_123", tmp_path / f"salf-run-{mark}-abcd_123"):
            (folder / "models").mkdir(parents=True)
            paths.append(folder)
        made.extend(paths)
        return paths

    yield make
    for path in made:
        if path.is_file():
            path.unlink()


def test_what_a_dead_process_left_is_removed(left, tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    assert process_start(dead.pid) is None
    paths = left(f"{dead.pid}-0a1b2c3d")
    remove_stale(tmp_path / "runs")
    assert not any(path.exists() for path in paths)


def test_what_an_earlier_process_of_the_same_id_left_is_removed(left, tmp_path):
    """A container that is started again runs salf under the same number, often 1, with the same /dev/shm."""
    earlier, mine = left(f"{os.getpid()}-0a1b2c3d"), left(own_mark("-"))
    older = left(str(os.getpid()))  # of a salf that wrote no start into its names, and may be running
    remove_stale(tmp_path / "runs")
    assert not any(path.exists() for path in earlier)
    assert all(path.exists() for path in (*mine, *older))


def test_processes_are_told_apart_by_their_starts():
    with subprocess.Popen(["sleep", "10"]) as other:
        assert process_start(other.pid) == process_start(other.pid)
        assert process_start(other.pid) != process_start(os.getpid())
        other.kill()
