"""A kept Triton's book-keeping, with a Triton that starts at once or not at all."""

import os
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from salf_serving import LaunchSettings, PortTakenError, RefusedVersionError, kept_triton
from salf_serving.status import Status
from salf_serving.watch import Change


class Starts:
    """What `launched` does next: each error is raised once, then everything works."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.served: list[list[str]] = []

    @contextmanager
    def launched(self, settings: LaunchSettings):
        if self.errors:
            raise self.errors.pop(0)
        names = sorted(path.name for path in settings.repository.iterdir())
        self.served.append([f"{name} {(settings.repository / name / '1' / 'is').read_text()}" for name in names])
        server = SimpleNamespace(models=[SimpleNamespace(name=name) for name in names])
        yield server, SimpleNamespace(pid=os.getpid(), ended=lambda: False, guard=SimpleNamespace(returncode=0))


@pytest.fixture
def starts(monkeypatch):
    starts = Starts()
    monkeypatch.setattr(kept_triton, "launched", starts.launched)
    monkeypatch.setattr(kept_triton.time, "sleep", lambda _s: None)
    return starts


def write(model: Path, says: str) -> Path:
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text("")
    (model / "1" / "is").write_text(says)
    return model


@pytest.fixture
def kept(starts, tmp_path):
    """Without a front: a change is a new start."""
    write(tmp_path / "live" / "a", "old")
    status = Status()
    kept = kept_triton.KeptTriton(LaunchSettings(repository=tmp_path / "live"), status)
    kept.start()
    return kept, status


@pytest.fixture
def change(tmp_path) -> Change:
    folder = tmp_path / "change-1"
    copy = write(folder / "models" / "a", "new")
    return Change(family="a", copies={"a": copy}, removed=(), signatures={"a": "x"}, folder=folder)


def loaded_at(status: Status) -> float | None:
    return status.registry.get_sample_value("salf_model_loaded_timestamp_seconds", {"model": "a"})


def test_a_new_triton_with_the_same_models_is_no_new_version(kept, change):
    triton, status = kept
    first = loaded_at(status)
    triton.start_again("it died")
    assert loaded_at(status) == first
    triton.apply(change)
    assert loaded_at(status) != first


def test_a_change_whose_start_fails_is_taken_back_whatever_the_error(kept, starts, change):
    triton, _ = kept
    starts.errors = [PortTakenError("port 8001 on 127.0.0.1 is already in use")]
    with pytest.raises(RefusedVersionError, match="already in use"):
        triton.apply(change)
    assert not triton.died()
    assert starts.served == [["a old"], ["a old"]]
    assert not change.folder.exists(), "nobody else removes what was refused"


def test_a_change_that_a_full_disk_stops_half_way_is_taken_back(kept, starts, change, monkeypatch):
    triton, _ = kept
    rename = Path.rename

    def full(path: Path, target: Path) -> Path:
        if path == change.copies["a"]:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(RefusedVersionError, match="No space left"):
        triton.apply(change)
    assert starts.served[-1] == ["a old"]
    triton.stop()
