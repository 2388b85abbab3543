"""What `verify` finds in a repository, and what it does not call damage."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_family import NAMES, publish_family
from repository_state import parsed_config, served

from salf_contract import tuning_file
from salf_export import RepositoryError, accept_configs, list_repository, roll_back, verify_repository


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


def test_what_a_volume_holds_beside_models_is_not_looked_into(repo, monkeypatch):
    """Only root may open the file system's own folder."""
    honest = Path.iterdir

    def iterdir(path):
        if path.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return honest(path)

    before = verify_repository(repo)
    for name in ("lost+found", ".snapshot"):
        (repo / name).mkdir()
    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert verify_repository(repo) == before
    publish_family(repo, 3)


def test_what_is_no_repository_is_one_error(tmp_path):
    for path in (tmp_path / "none", Path(__file__)):
        with pytest.raises(RepositoryError, match="cannot be read"):
            list_repository(path)
        with pytest.raises(RepositoryError, match="cannot be read"):
            verify_repository(path)
    with pytest.raises(RepositoryError, match="holds no models"):
        verify_repository(tmp_path)
