"""Publishing: what appears, what is listed, what is taken to another repository and what is refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from model_family import FILES, NAMES, WEIGHTS, document, models, publish_family
from repository_state import described, served, tree

from salf_contract import parse_manifest, parse_metadata, sealed
from salf_export import (
    FidelityError,
    OptionError,
    RepositoryError,
    drop_old_versions,
    list_repository,
    publish_version,
    roll_back,
    verify_repository,
)
from salf_export.publishing import publish
from salf_export.repository import versions_in
from salf_export.weight_files import weights_file


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
