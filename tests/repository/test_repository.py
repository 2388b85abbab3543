"""Publishing, listing, checking, going back, and what is left after interruptions, without training anything."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from model_family import FILES, NAMES, WEIGHTS, document, models, publish_family
from tritonclient.grpc import model_config_pb2

from salf_contract import (
    Tuning,
    TuningRecord,
    metadata_in_parameters,
    parse_manifest,
    parse_metadata,
    sealed,
    tuning_file,
)
from salf_contract.tuning import Trial
from salf_export import (
    FidelityError,
    OptionError,
    RepositoryError,
    accept_configs,
    changing,
    drop_old_versions,
    list_repository,
    publish_version,
    roll_back,
    verify_repository,
)
from salf_export.publishing import publish
from salf_export.repository import read_model, versions_in
from salf_export.weight_files import weights_file

HERE = Path(__file__).parent
BEST = Tuning(max_batch_size=4, instances=2, threads=3, max_queue_delay_microseconds=700)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def parsed_config(model: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def served(repository: Path) -> dict[str, list[int]]:
    return {name: list(parsed_config(repository / name).version_policy.specific.versions) for name in NAMES}


def described(repository: Path, name: str) -> set[int]:
    parameters = {key: value.string_value for key, value in parsed_config(repository / name).parameters.items()}
    return set(metadata_in_parameters(parameters))


def tune_version(repository: Path, version: int, *, best: Tuning = BEST) -> None:
    """Put the record of a tuning beside boats' config.pbtxt."""
    trial = Trial(settings=best, pictures_per_s=1, p50_ms=1, p95_ms=1, requests=1, fits=True)
    record = TuningRecord(model="boats", version=version, p95_bound_ms=5, concurrency=1, best=best, trials=(trial,))
    (repository / "boats" / tuning_file(version)).write_text(record.to_json())


@pytest.fixture(scope="module")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two") / "repository"
    publish_family(folder, 1)
    publish_family(folder, 2, concepts=6)
    tune_version(folder, 1)
    return folder


@pytest.fixture
def repo(two_versions: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_versions, tmp_path / "repository"))


def test_the_newest_published_version_is_served_and_all_are_described(two_versions):
    assert served(two_versions) == {name: [2] for name in NAMES}
    for name in NAMES:
        assert described(two_versions, name) == {1, 2}
    assert [p.name for p in two_versions.parent.iterdir()] == ["repository"], "nothing is left beside it"


def test_a_manifest_names_every_file_and_where_it_came_from(two_versions):
    manifest = parse_manifest((two_versions / "boats/2/manifest.json").read_bytes())
    assert (manifest.model, manifest.version, set(manifest.family)) == ("boats", 2, set(NAMES))
    assert set(manifest.files) == FILES
    assert manifest.files["model.onnx"].size_bytes == (two_versions / "boats/2/model.onnx").stat().st_size
    assert {"checkpoint_sha256", "salf_version", "numpy_version", "python_version"} <= set(manifest.provenance)
    assert len(manifest.provenance["salf_commit"].removesuffix("-dirty")) == 40, "the tests run in a clone"


def test_the_list_says_what_there_is(two_versions):
    rows = list_repository(two_versions)
    assert [(row.name, row.version, row.served) for row in rows] == [("boats", 1, ()), ("boats", 2, NAMES)]
    assert rows[1].contract_id == document(2, concepts=6).contract_id
    assert rows[1].size_bytes == sum(
        len(content) for name in NAMES for content in tree(two_versions / name / "2").values()
    )
    assert rows[1].accuracy == {"accuracy": 0.9}
    assert rows[1].published_at is not None
    assert rows[1].published_at.endswith("Z")


def test_a_rollback_serves_the_older_version_and_the_next_publish_the_newest(repo):
    done = roll_back(repo, "boats", to=1)
    assert done.models == NAMES
    assert done.before == dict.fromkeys(NAMES, 2)
    assert served(repo) == {name: [1] for name in NAMES}
    assert described(repo, "boats") == {1, 2}
    assert verify_repository(repo).findings == ()
    publish_family(repo, 3)
    assert served(repo) == {name: [3] for name in NAMES}


def test_a_rollback_brings_the_versions_own_settings_back(repo):
    slower = [
        type(model)(model.name, model.config.replace("max_batch_size: 8", "max_batch_size: 2"), model.files)
        for model in models(3)
    ]
    publish(repo, 3, slower)
    assert parsed_config(repo / "boats").max_batch_size == 2
    roll_back(repo, "boats", to=2)
    assert parsed_config(repo / "boats").max_batch_size == 8


def test_a_rollback_uses_what_was_tuned_for_that_version(repo):
    tune_version(repo, 1)
    roll_back(repo, "boats", to=1)
    config = parsed_config(repo / "boats")
    assert (config.max_batch_size, config.instance_group[0].count) == (4, 2)
    assert config.dynamic_batching.max_queue_delay_microseconds == 700
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert parsed_config(repo / "boats_all_maps").max_batch_size == 8
    assert verify_repository(repo).findings == ()
    (repo / "boats" / tuning_file(1)).write_text("{}")
    with pytest.raises(RepositoryError, match="tune again"):
        roll_back(repo, "boats", to=1)


def test_a_model_without_the_version_keeps_its_own_and_is_named(repo):
    publish(repo, 3, models(3, names=("boats_what_if", *NAMES)))
    done = roll_back(repo, "boats", to=1)
    assert done.without == ("boats_what_if",)
    assert read_model(repo / "boats_what_if").served == 3
    assert verify_repository(repo).findings == ()


def test_a_rollback_to_nothing_or_to_damage_is_refused(repo):
    before = tree(repo)
    with pytest.raises(RepositoryError, match=r"has no version 9 .* it has: 1, 2"):
        roll_back(repo, "boats", to=9)
    with pytest.raises(RepositoryError, match=r"no model 'ships' .* it has: boats"):
        roll_back(repo, "ships", to=1)
    assert tree(repo) == before
    (repo / "boats_all_maps/1/model.onnx").write_bytes(b"x")
    before = tree(repo)
    with pytest.raises(RepositoryError, match="boats_all_maps is damaged"):
        roll_back(repo, "boats", to=1)
    assert tree(repo) == before


def test_old_versions_go_and_the_served_one_stays(repo):
    for version in (3, 4, 5):
        publish_family(repo, version)
    roll_back(repo, "boats", to=2)
    assert drop_old_versions(repo, "boats", keep=2) == (1, 3)
    assert versions_in(repo / "boats") == (2, 4, 5)
    assert described(repo, "boats") == {2, 4, 5}
    assert served(repo) == {name: [2] for name in NAMES}
    assert verify_repository(repo).findings == ()
    assert drop_old_versions(repo, "boats", keep=2) == ()
    with pytest.raises(OptionError, match="keep is 0"):
        drop_old_versions(repo, "boats", keep=0)


def test_weights_are_on_the_disk_once_whatever_happens_to_their_version(repo, tmp_path):
    def copies(repository: Path) -> dict[int, int]:
        """Version -> how often the disk holds the weights that its models share."""
        return {
            version: len({(repository / name / str(version) / weights_file(WEIGHTS)).stat().st_ino for name in NAMES})
            for version in versions_in(repository / "boats")
        }

    fresh = tmp_path / "fresh"
    for version in (1, 2, 3):
        publish_family(fresh, version)
    assert copies(fresh) == {1: 1, 2: 1, 3: 1}
    roll_back(fresh, "boats", to=2)
    assert drop_old_versions(fresh, "boats", keep=1) == (1,)
    assert copies(fresh) == {2: 1, 3: 1}
    assert copies(repo) == {1: 2, 2: 2}, "a copy of files, as by cp -r, has them twice"
    publish_version(repo, "boats", tmp_path / "serving")
    assert copies(tmp_path / "serving") == {2: 1}
    assert verify_repository(tmp_path / "serving").findings == verify_repository(fresh).findings == ()


def test_a_version_is_taken_to_another_repository_as_it_is(repo, tmp_path):
    target = tmp_path / "serving" / "repository"
    assert publish_version(repo, "boats", target, version=1) == 1
    assert publish_version(repo, "boats", target) == 2
    for name in NAMES:
        for version in ("1", "2"):
            assert tree(target / name / version) == tree(repo / name / version)
    assert served(target) == {name: [2] for name in NAMES}
    assert verify_repository(target).findings == ()
    with pytest.raises(RepositoryError, match="never overwritten"):
        publish_version(repo, "boats", target, version=2)


def test_what_must_not_be_taken_is_refused(repo, tmp_path):
    target = tmp_path / "serving"
    with pytest.raises(OptionError, match="salf rollback"):
        publish_version(repo, "boats", repo)
    with pytest.raises(RepositoryError, match="no version 9"):
        publish_version(repo, "boats", target, version=9)
    publish_family(repo, 3, fidelity=False)
    with pytest.raises(FidelityError, match="never compared"):
        publish_version(repo, "boats", target)
    (repo / "boats/2/probe.npz").write_bytes(b"")
    with pytest.raises(RepositoryError, match=r"probe\.npz has 0 bytes"):
        publish_version(repo, "boats", target, version=2)
    (repo / "boats_all_maps/1/manifest.json").unlink()
    with pytest.raises(RepositoryError, match="has no manifest"):
        publish_version(repo, "boats", target, version=1)
    assert not target.exists()


def test_a_copy_that_changes_on_the_way_is_refused(repo, tmp_path, monkeypatch):
    honest = shutil.copyfile

    def flipping(source, target):
        honest(source, target)
        if Path(target).name == "model.onnx":
            content = bytearray(Path(target).read_bytes())
            content[5] ^= 1
            Path(target).write_bytes(bytes(content))

    monkeypatch.setattr(shutil, "copyfile", flipping)
    with pytest.raises(RepositoryError, match=r"not what was published: model\.onnx"):
        publish_version(repo, "boats", tmp_path / "serving")
    assert tree(tmp_path / "serving") == {}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_verify_finds_every_flipped_bit(two_versions, data):
    files = sorted(path for path in two_versions.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    changed = bytearray(content)
    changed[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        path.write_bytes(bytes(changed))
        findings = verify_repository(two_versions).findings
    finally:
        path.write_bytes(content)
    name = path.relative_to(two_versions).parts[0]
    assert any(finding.model == name and finding.remedy for finding in findings), path
    assert verify_repository(two_versions).findings == ()


def test_verify_finds_every_missing_file(two_versions):
    """But for a record of a tuning, which need not be there."""
    records = {two_versions / "boats" / tuning_file(1)}
    for path in sorted({path for path in two_versions.rglob("*") if path.is_file()} - records):
        content = path.read_bytes()
        path.unlink()
        try:
            assert verify_repository(two_versions).findings, path
        finally:
            path.write_bytes(content)


@pytest.mark.parametrize("place", ["boats/2/extra.bin", "boats/2/deep/extra.bin", "boats/notes.txt", "boats/new/x"])
def test_verify_finds_an_added_file(repo, place):
    (repo / place).parent.mkdir(exist_ok=True)
    (repo / place).write_bytes(b"")
    (finding,) = verify_repository(repo).findings
    assert "was not published" in finding.problem


def test_verify_finds_the_tuning_of_another_version(repo):
    (repo / "boats" / tuning_file(1)).rename(repo / "boats" / tuning_file(2))
    (finding,) = verify_repository(repo).findings
    assert (finding.model, finding.version) == ("boats", 2)
    assert "tuning_v2.json is that of boats version 1" in finding.problem
    assert f"remove {repo / 'boats' / tuning_file(2)}" in finding.remedy


def test_verify_says_how_to_go_back_from_a_damaged_version(repo):
    (repo / "boats/2/model.onnx").write_bytes(b"")
    (finding,) = verify_repository(repo).findings
    assert (finding.model, finding.version) == ("boats", 2)
    assert f"salf rollback {repo} boats --to 1" in finding.remedy


def test_verify_finds_versions_that_do_not_belong_together(repo):
    shutil.rmtree(repo / "boats_all_maps/1")
    assert any("boats_all_maps was published with it" in found.problem for found in verify_repository(repo).findings)


def test_verify_finds_a_rollback_that_was_interrupted(repo):
    before = (repo / "boats/config.pbtxt").read_bytes()
    roll_back(repo, "boats", to=1)
    (repo / "boats/config.pbtxt").write_bytes(before)
    (finding,) = verify_repository(repo).findings
    assert "serve different versions: boats 2, boats_all_maps 1" in finding.problem


def test_a_config_changed_by_hand_is_found_until_it_is_accepted(repo):
    path = repo / "boats/config.pbtxt"
    path.write_text(path.read_text().replace("count: 1", "count: 2"))
    (finding,) = verify_repository(repo).findings
    assert "--accept-config" in finding.remedy
    assert accept_configs(repo) == ("boats",)
    assert verify_repository(repo).findings == ()
    assert accept_configs(repo) == ()
    path.write_text("name: {")
    with pytest.raises(RepositoryError, match="cannot be accepted"):
        accept_configs(repo)


def test_a_repository_from_before_manifests_is_not_called_damaged(repo):
    """The repository as salf 0.1's first exports wrote it: latest policy, no seal, no manifests."""
    for name in NAMES:
        path = repo / name / "config.pbtxt"
        body = path.read_text().partition("\n")[2]
        path.write_text(body.replace("specific { versions: [ 2 ] }", "latest { num_versions: 1 }"))
        for version in (1, 2):
            (repo / name / str(version) / "manifest.json").unlink()
            (repo / name / str(version) / "serving.pbtxt").unlink()
    report = verify_repository(repo)
    assert report.findings == ()
    assert len(report.unstamped) == 4
    assert [row.served for row in list_repository(repo)] == [(), NAMES]
    roll_back(repo, "boats", to=1)
    assert served(repo) == {name: [1] for name in NAMES}
    publish_family(repo, 3)
    assert served(repo) == {name: [3] for name in NAMES}
    assert parsed_config(repo / "boats").parameters["intra_op_thread_count"].string_value == "1"


def test_a_folder_of_someone_else_is_named_and_not_judged(repo):
    (repo / "theirs/1").mkdir(parents=True)
    (repo / "theirs/config.pbtxt").write_text('name: "theirs"')
    report = verify_repository(repo)
    assert (report.findings, report.foreign) == ((), ("theirs",))
    assert {row.name for row in list_repository(repo)} == {"boats"}


def test_what_is_no_repository_is_one_error(tmp_path):
    for path in (tmp_path / "none", Path(__file__)):
        with pytest.raises(RepositoryError, match="cannot be read"):
            list_repository(path)
        with pytest.raises(RepositoryError, match="cannot be read"):
            verify_repository(path)
    with pytest.raises(RepositoryError, match="holds no models"):
        verify_repository(tmp_path)


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
    limit = None if limit_bytes is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes,) * 2)
    code = "import sys; from salf_cli.main import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)


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


def test_a_file_system_without_locks_is_one_error(repo, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(changing.fcntl, "flock", refuse)
    before = tree(repo)
    with pytest.raises(RepositoryError, match="No locks available"):
        publish_family(repo, 3)
    assert tree(repo) == before


def test_settings_without_sense_are_refused_before_anything_appears(repo):
    before = tree(repo)
    broken = [type(model)(model.name, "name: {", model.files) for model in models(3)]
    with pytest.raises(RepositoryError, match="settings of boats_all_maps"):
        publish(repo, 3, broken)
    assert tree(repo) == before


def test_the_documents_of_a_sealed_config_survive(repo):
    text = (repo / "boats/config.pbtxt").read_text()
    assert text == sealed(text)
    assert parse_metadata((repo / "boats/2/metadata.json").read_bytes()).concepts[0] == 'concept "0" é'


def test_a_repository_is_operated_without_torch_or_onnx(repo, tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from salf_export import drop_old_versions, list_repository, publish_version, roll_back, verify_repository\n"
        "repository = Path(sys.argv[1])\n"
        "publish_version(repository, 'boats', Path(sys.argv[2]))\n"
        "roll_back(repository, 'boats', to=1)\n"
        "assert not verify_repository(repository).findings and list_repository(repository)\n"
        "drop_old_versions(repository, 'boats', keep=1)\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'grpc', 'salf_training'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)\n"
    )
    command = [sys.executable, "-c", code, str(repo), str(tmp_path / "serving")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
