"""What a change leaves that is killed, runs out of space, or meets another publisher."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from model_family import FILES, NAMES, WEIGHTS, publish_family
from repository_state import described, served, tree

from salf_export import RepositoryError, changing, drop_old_versions, publish_version, roll_back, verify_repository
from salf_export.repository import read_model, versions_in

HERE = Path(__file__).parent

#: Change -> (versions served by NAMES before, in between and after it).
OUTCOMES = {
    "publish": {(1, 1), (2, 1), (2, 2)},
    "publish onto latest": {(1, 1), (2, 1), (2, 2)},
    "rollback": {(2, 2), (1, 2), (1, 1)},
    "retention": {(3, 3)},
}


def steps_of(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


@pytest.mark.parametrize("change", OUTCOMES)
def test_a_killed_change_leaves_every_model_old_or_new(change, interrupted, tmp_path):
    """kill -9 at every change of the file system."""
    steps = steps_of(interrupted("kill", change))
    assert len(steps) > {"rollback": 10, "retention": 10}.get(change, 30)
    outcomes = set()
    for step in steps:
        repository = step / "repository"
        for name in NAMES:
            model = read_model(repository / name)
            version = model.served
            assert version is not None, (step, name)
            assert set(tree(repository / name / str(version))) == FILES | {"manifest.json"}, (step, name)
            assert version in described(repository, name), (step, name)
        outcomes.add(tuple(read_model(repository / name).served for name in NAMES))
        # Whoever changes it next cleans up after the dead one.
        again = Path(shutil.copytree(step, tmp_path / step.name)) / "repository"
        if change == "retention":
            drop_old_versions(again, "boats", keep=1)
            expected = 3
        else:
            expected = 1 if change == "rollback" else 3
            publish_family(again, 3)
            if change == "rollback":
                roll_back(again, "boats", to=1)
            assert {3, expected} <= set(versions_in(again / "boats"))
        assert [path.name for path in again.parent.iterdir()] == ["repository"], step
        assert served(again) == {name: [expected] for name in NAMES}
    assert outcomes == OUTCOMES[change], "old, the moment between the two models, and new were all seen"


@pytest.mark.parametrize("change", ["publish", "rollback", "retention"])
def test_a_change_without_space_leaves_the_repository_as_it_was(change, interrupted):
    folder = interrupted("full", change)
    refused = 0
    for step in steps_of(folder):
        error = step / "error"
        if error.exists():
            refused += 1
            assert "free some space" in error.read_text(), step
            assert tree(step / "repository") == tree(folder / "start"), step
            assert sorted(path.name for path in step.iterdir()) == ["error", "repository"], step
        else:  # what failed was tidying up, or sharing what can be stored twice
            assert tree(step / "repository") != tree(folder / "start"), step
    assert refused > {"rollback": 5, "retention": 5}.get(change, 15)


def salf(*arguments: str | Path, limit_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """The command; `limit_bytes`: no file may become larger, as under a quota."""
    limit = [] if limit_bytes is None else ["prlimit", f"--fsize={limit_bytes}"]
    code = "import sys; from salf_cli.main import main; main()"
    command = [*limit, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_write_that_breaks_off_is_one_line_and_leaves_the_repository_as_it_was(repo, tmp_path):
    """The kernel refuses the rest of a file, in the middle of it."""
    target = tmp_path / "serving" / "repository"
    publish_family(target, 1)
    before = tree(target)
    done = salf("publish", repo, "boats:2", "--to", target, limit_bytes=len(WEIGHTS) // 2)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "version 2 of boats could not be written" in line
    assert "the repository is as it was before" in line
    assert tree(target) == before
    assert [path.name for path in target.parent.iterdir()] == ["repository"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk; the kernel's limit above is for all")
def test_a_full_disk_is_told_with_the_command_that_frees_it(tmp_path):
    """A real disk that holds two versions and no third."""
    source, disk = tmp_path / "source", tmp_path / "disk"
    for version in (1, 2, 3):
        publish_family(source, version)
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        target = disk / "repository"
        for version in (1, 2):
            publish_version(source, "boats", target, version=version)
        (disk / "others").write_bytes(bytes(shutil.disk_usage(disk).free - 64 * 1024))
        before = tree(target)
        done = salf("publish", source, "boats:3", "--to", target)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "No space left on device" in line
        assert f"salf prune {target} NAME --keep 1" in line
        assert tree(target) == before
        assert sorted(path.name for path in disk.iterdir()) == ["others", "repository"]
        assert "removed version 1" in salf("prune", target, "boats", "--keep", "1").stdout
        assert salf("publish", source, "boats:3", "--to", target).returncode == 0
        assert verify_repository(target).findings == ()
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("change", ["publish", "rollback"])
def test_what_appears_was_on_the_disk_before(change, repo, monkeypatch):
    """A power cut finds whole files: everything is synced before it is renamed, and its folder behind it."""
    synced: set[Path] = set()
    appeared: list[Path] = []

    def sync(descriptor: int) -> None:
        synced.add(Path(f"/proc/self/fd/{descriptor}").resolve())

    def appear(self, source: Path, target: Path) -> None:
        inside = source.rglob("*") if source.is_dir() else ()
        assert {source, *inside} <= synced, target
        synced.discard(target.parent)
        honest(self, source, target)
        assert target.parent in synced
        appeared.append(target)

    honest = changing.Change.put
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(changing.Change, "put", appear)
    if change == "publish":
        publish_family(repo, 3)
    else:
        roll_back(repo, "boats", to=1)
    assert repo / "boats/config.pbtxt" in appeared


def test_publishers_at_once_do_not_corrupt_the_repository(tmp_path):
    repository = tmp_path / "repository"
    publish_family(repository, 1)
    script = HERE / "racing_publisher.py"
    racers = [
        subprocess.Popen([sys.executable, str(script), str(repository), "8"], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    looks = 0
    while any(racer.poll() is None for racer in racers):
        for name in NAMES:
            model = read_model(repository / name)
            assert model.served is not None
            assert (repository / name / str(model.served) / "manifest.json").is_file()
        looks += 1
    for racer in racers:
        assert racer.wait() == 0, racer.stderr.read() if racer.stderr else ""
        if racer.stderr:
            racer.stderr.close()
    assert looks > 10
    assert versions_in(repository / "boats") == tuple(range(1, 26)), "every publisher's versions are there"
    assert verify_repository(repository).findings == ()
    assert served(repository) == {name: [25] for name in NAMES}


def test_a_repository_whose_parent_takes_no_folder_is_still_loadable_in_between(repo, monkeypatch):
    """Aside lies in a model's folder then: Triton takes every folder of the repository for a model."""
    monkeypatch.setattr(changing.os, "access", lambda path, mode: Path(path) != repo.parent)
    seen = []

    def looking(folder):
        seen.append(sorted(path.name for path in repo.iterdir()))

    monkeypatch.setattr("salf_export.publishing.sync_tree", looking)
    publish_family(repo, 3)
    assert seen == [sorted(NAMES)]
    assert verify_repository(repo).findings == ()


def test_aside_never_lies_in_the_folder_of_the_file_system(tmp_path, monkeypatch):
    """In the root of a volume; only root may write there, and nobody looks there for what was left."""
    monkeypatch.setattr(changing.os, "access", lambda path, mode: Path(path) != tmp_path.parent)
    for name in ("lost+found", "zebras"):
        (tmp_path / name).mkdir()
    with changing.changing(tmp_path, what="nothing could be done") as change:
        assert change.aside.parent == tmp_path / "zebras"


def test_a_file_system_without_locks_is_one_error(repo, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(changing.fcntl, "flock", refuse)
    before = tree(repo)
    with pytest.raises(RepositoryError, match="No locks available"):
        publish_family(repo, 3)
    assert tree(repo) == before
