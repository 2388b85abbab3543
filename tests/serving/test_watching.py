"""When a changed repository is tried and taken (here without a server)."""

import os
import shutil
from pathlib import Path

import pytest
from committed_models import COMMITTED, newest, write_manifest

from salf_serving import ProbeError, RepositoryError
from salf_serving.control import retiring
from salf_serving.errors import ProbeTimeoutError, ServerDiedError, StartError, StartupTimeoutError
from salf_serving.repository import check_repository
from salf_serving.restarts import MOST_DEATHS, Restarts
from salf_serving.watch import RepositoryWatch


@pytest.fixture
def scenes(tmp_path) -> Path:
    """The committed model, in a repository of its own."""
    return Path(shutil.copytree(COMMITTED / "scenes", tmp_path / "repository" / "scenes"))


class Watched:
    """A watch over a repository with one model, and what became of its changes."""

    def __init__(self, repository: Path, live: Path) -> None:
        self.tried: list[list[str]] = []
        self.refused: list[str] = []
        self.error: Exception | None = None
        live.mkdir()
        self.watch = RepositoryWatch(
            repository,
            live,
            try_models=self._try,
            on_refused=lambda family, error: self.refused.append(f"{family}: {error.reason}"),
        )
        self.watch.first_copy()

    def _try(self, models: Path) -> None:
        self.tried.append(sorted(path.name for path in models.iterdir()))
        if self.error is not None:
            raise self.error

    def looks(self, times: int = 2):
        """The change that some looks in a row find."""
        return next((change for change in (self.watch.look() for _ in range(times)) if change is not None), None)


@pytest.fixture
def watched(scenes, tmp_path) -> Watched:
    shutil.copytree(COMMITTED / "scenes_all_maps", scenes.parent / "scenes_all_maps")
    return Watched(scenes.parent, tmp_path / "live")


def test_what_is_no_model_may_lie_beside_models_that_are_copied(scenes, tmp_path):
    for name in (".git", ".snapshot", "lost+found"):
        (scenes.parent / name).mkdir()
    shutil.copy(scenes / "config.pbtxt", scenes.parent / ".snapshot" / "config.pbtxt")
    watched = Watched(scenes.parent, tmp_path / "live")
    assert list(watched.watch.served) == ["scenes"]
    assert watched.looks(3) is None
    with pytest.raises(RepositoryError, match="is not a model"):
        check_repository(scenes.parent)


def test_a_folder_of_the_file_system_that_only_root_may_open_hides_no_change(watched, scenes, monkeypatch):
    honest = Path.is_file

    def closed(path: Path) -> bool:
        if path.parent.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return honest(path)

    (scenes.parent / "lost+found").mkdir(mode=0o700)
    monkeypatch.setattr(Path, "is_file", closed)
    os.utime(newest(scenes) / "model.onnx")
    assert watched.looks(2) is not None


@pytest.fixture
def closed(monkeypatch) -> set[Path]:
    """Folders that may not be looked into, even by root, who runs some tests."""
    folders: set[Path] = set()
    list_honestly, look_honestly = Path.iterdir, Path.is_file

    def refuse(folder: Path, path: Path) -> None:
        if folder in folders:
            raise PermissionError(13, "Permission denied", str(path))

    def iterdir(path: Path):
        refuse(path, path)
        return list_honestly(path)

    def is_file(path: Path) -> bool:
        refuse(path.parent, path)
        return look_honestly(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    monkeypatch.setattr(Path, "is_file", is_file)
    return folders


def test_a_closed_folder_is_told_once_and_keeps_no_other_model_from_changing(watched, scenes, closed):
    (scenes.parent / "secret").mkdir()
    closed.add(scenes.parent / "secret")
    assert watched.looks(5) is None
    assert watched.refused == ["secret: unreadable"]
    os.utime(newest(scenes) / "model.onnx")
    change = watched.looks(5)
    assert change is not None
    assert list(change.copies) == ["scenes"]
    assert watched.refused == ["secret: unreadable"]


def test_a_served_model_whose_folder_is_closed_stays_and_is_told_each_time_that_it_is_closed(watched, scenes, closed):
    for _ in range(2):
        closed.add(scenes.parent / "scenes_all_maps")
        assert watched.looks(5) is None, "it is not taken for a removal"
        closed.clear()
        assert watched.looks(5) is None
    assert watched.refused == ["scenes: unreadable"] * 2
    assert watched.tried == []


def test_a_closed_folder_at_the_start_is_one_sentence_that_says_what_to_do(scenes, closed):
    closed.add(scenes)
    expected = "scenes/config.pbtxt cannot be read: Permission denied; let the server's user read it, or move "
    with pytest.raises(RepositoryError, match=expected):
        check_repository(scenes.parent, copied=True)


def test_what_cannot_be_copied_is_told_in_one_sentence(scenes, tmp_path):
    (newest(scenes) / "more").symlink_to("/nowhere")
    with pytest.raises(RepositoryError, match=r"model scenes cannot be copied .*: \[Errno 2\] No such file .*/more'$"):
        Watched(scenes.parent, tmp_path / "live")


def test_nothing_is_tried_without_a_change(watched):
    assert watched.looks(5) is None
    assert watched.tried == []


def test_a_change_counts_when_two_looks_agree_and_is_tried_with_all_models(watched, scenes):
    assert watched.looks(2) is None
    os.utime(newest(scenes) / "model.onnx")
    assert watched.watch.look() is None
    change = watched.watch.look()
    assert change is not None
    assert (change.family, list(change.copies)) == ("scenes", ["scenes"])
    assert watched.tried == [["scenes", "scenes_all_maps"]]
    watched.watch.put_into_service(change)
    assert watched.looks(5) is None


def test_models_of_a_family_change_together(watched, scenes):
    for model in scenes.parent.iterdir():
        os.utime(newest(model) / "model.onnx")
    change = watched.looks()
    assert change is not None
    assert set(change.copies) == {"scenes", "scenes_all_maps"}
    assert len(watched.tried) == 1


def test_a_refused_content_is_not_tried_again_until_it_changes(watched, scenes):
    watched.error = ProbeError("wrong")
    os.utime(newest(scenes) / "model.onnx")
    assert watched.looks(5) is None
    os.utime(newest(scenes) / "model.onnx")  # looks new, holds the same
    assert watched.looks(5) is None
    assert len(watched.tried) == 1
    assert watched.refused == ["scenes: probe"]
    assert not list((watched.watch._live.parent).glob("change-*")), "copies of what is refused are removed"
    watched.error = None
    (newest(scenes) / "manifest.json").unlink()
    (newest(scenes) / "notes.txt").touch()
    assert watched.looks(3) is not None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StartupTimeoutError("not ready in time"), "timeout"),
        (ProbeTimeoutError("no answer in time"), "timeout"),
        (StartError("Triton did not start: it stopped with status 137"), "load"),
    ],
)
def test_what_only_the_moment_kept_from_its_trial_is_tried_again_when_it_is_touched(watched, scenes, error, reason):
    watched.error = error
    os.utime(newest(scenes) / "model.onnx")
    assert watched.looks(5) is None
    assert (watched.refused, len(watched.tried)) == ([f"scenes: {reason}"], 1)
    watched.error = None
    assert watched.looks(5) is None, "it costs a trial, so somebody must ask for it"
    os.utime(newest(scenes) / "model.onnx")
    assert watched.looks(2) is not None


def test_a_change_waits_for_a_full_disk_and_is_told_once(watched, scenes, monkeypatch, caplog):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("salf_serving.watch.copy_model", full)
        os.utime(newest(scenes) / "model.onnx")
        assert watched.looks(6) is None
        patch.setattr("tempfile.mkdtemp", full)
        assert watched.looks(3) is None
    assert [message for message in caplog.messages if "No space left on device" in message] == caplog.messages
    assert len(caplog.messages) == 1
    assert watched.looks(2) is not None
    assert watched.refused == []


def test_the_removal_of_a_model_waits_for_a_full_disk_and_is_told_once(watched, scenes, monkeypatch, caplog):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    shutil.rmtree(scenes.parent / "scenes_all_maps")
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkdtemp", full)
        assert watched.looks(5) is None
    (told,) = caplog.messages
    assert told.startswith("the removal of scenes_all_maps could not be checked")
    change = watched.looks(2)
    assert change is not None
    assert change.removed == ("scenes_all_maps",)


def test_what_fails_its_manifest_is_not_even_tried(watched, scenes):
    write_manifest(newest(scenes))
    (newest(scenes) / "model.onnx").write_bytes(b"other")
    assert watched.looks(5) is None
    assert (watched.refused, watched.tried) == (["scenes: manifest"], [])


def test_a_repository_that_is_gone_changes_nothing_and_a_model_that_is_gone_does(watched, scenes):
    scenes.parent.rename(scenes.parent.with_name("away"))
    assert watched.looks(5) is None
    scenes.parent.with_name("away").rename(scenes.parent)
    shutil.rmtree(scenes.parent / "scenes_all_maps")
    change = watched.looks(3)
    assert change is not None
    assert change.removed == ("scenes_all_maps",)


def test_a_process_that_keeps_dying_is_left_alone():
    restarts = Restarts("Triton")
    pauses = [restarts.pause_s("it died") for _ in range(MOST_DEATHS)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.5
    with pytest.raises(ServerDiedError, match=r"Triton died 6 times within 120 s .*: it died"):
        restarts.pause_s("it died")


def test_a_replaced_worker_may_end_and_others_may_not():
    before = {1: "a", 2: "b"}
    assert retiring({}, before) == set(), "the first start replaces nobody"
    assert retiring(before, {1: "a", 2: "b", 3: "a"}) == {1}, "its end, however late, is no death"
    assert retiring(before, before) == set(), "a load that changed nothing"
    assert retiring(before, {2: "b", 3: "a"}) == set(), "it has ended already"
