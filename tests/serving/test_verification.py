"""What a version must prove before it is tried: hashes of its files, its documents, its comparison."""

import json
import shutil
from pathlib import Path

import pytest
from committed_models import COMMITTED, newest, write_manifest

from salf_contract import with_field, with_parameter, with_served_version
from salf_serving import RefusedVersionError
from salf_serving.snapshot import copy_model, signature, versions_to_serve
from salf_serving.verification import check_documents, check_files, family_of


@pytest.fixture
def scenes(tmp_path) -> Path:
    """The committed model, in a repository of its own."""
    return Path(shutil.copytree(COMMITTED / "scenes", tmp_path / "repository" / "scenes"))


def refusal(check, model: Path) -> tuple[str, str]:
    with pytest.raises(RefusedVersionError) as caught:
        check(model)
    return caught.value.reason, str(caught.value)


def change_config(model: Path, change) -> None:
    path = model / "config.pbtxt"
    path.write_text(change(path.read_text()))


def test_the_committed_models_pass():
    for model in COMMITTED.iterdir():
        check_files(model)
        check_documents(model)
        assert family_of(model) == "scenes"


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("version_policy { specific { versions: [ 2 ] } }", ["2"]),
        ("version_policy { specific { versions: [ 2, 9 ] } }", ["2", "9"]),
        ("version_policy { latest { num_versions: 2 } }", ["9", "10"]),
        ("version_policy { latest { } }", ["10"]),
        ("version_policy { all { } }", ["1", "2", "9", "10"]),
        (None, ["10"]),
    ],
)
def test_the_policy_chooses_what_is_copied(tmp_path, policy, served):
    model = tmp_path / "m"
    for version in (1, 2, 9, 10):
        (model / str(version)).mkdir(parents=True)
        (model / str(version) / "model.onnx").touch()
    (model / "config.pbtxt").write_text(with_field('name: "m"\n', "version_policy", policy))
    assert [path.name for path in versions_to_serve(model)] == served
    copy_model(model, tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {*served, "config.pbtxt"}


def test_a_version_that_is_not_there_is_refused(scenes):
    change_config(scenes, lambda text: with_served_version(text, 7))
    reason, said = refusal(versions_to_serve, scenes)
    assert reason == "metadata"
    assert "model scenes should serve version 7, which is not there; publish it again or change version_policy" in said


def test_files_must_be_those_of_the_manifest(scenes):
    version = newest(scenes)
    write_manifest(version)
    check_files(scenes)
    content = bytearray((version / "model.onnx").read_bytes())
    content[1000] ^= 1
    (version / "model.onnx").write_bytes(content)
    (version / "surprise.py").touch()
    reason, said = refusal(check_files, scenes)
    assert reason == "manifest"
    assert "model.onnx has SHA-256" in said
    assert "surprise.py was not published" in said


def test_a_manifest_must_be_its_own_and_unchanged(scenes):
    version = newest(scenes)
    write_manifest(version, version=5)
    assert "its manifest is of model scenes version 5" in refusal(check_files, scenes)[1]
    write_manifest(version)
    document = json.loads((version / "manifest.json").read_text())
    document["provenance"] = {"by": "somebody else"}
    (version / "manifest.json").write_text(json.dumps(document))
    assert "was changed after it was written" in refusal(check_files, scenes)[1]


def test_metadata_must_be_its_own_compared_and_told_to_clients(scenes):
    path = newest(scenes) / "metadata.json"
    good = json.loads(path.read_text())
    for change, words in (
        ({"version": 4}, "its metadata is of version 4"),
        ({"fidelity": None}, "was never compared with its source"),
        ({"top": 3}, "tells clients of another document"),
        ({"classes": []}, "classes"),
    ):
        path.write_text(json.dumps(good | change))
        reason, said = refusal(check_documents, scenes)
        assert reason == "metadata"
        assert words in said
    path.write_text(json.dumps(good))
    check_documents(scenes)
    change_config(scenes, lambda text: with_parameter(text, "salf_metadata_v1", "{}"))
    assert refusal(check_documents, scenes)[0] == "metadata"


FIGURES = {"pictures": 200, "class_agreement": 1, "top5_overlap": 1, "top5_order": 1, "map_cosine": 1,
           "lowest_map_cosine": 1, "largest_contribution_error": 0}  # fmt: skip


@pytest.mark.parametrize(
    ("measured", "report", "words"),
    [
        ({"max_abs_error": {"logits": 2e-4}}, {}, "not faithful to its source: logits differs by up to 0.0002"),
        ({"precision": "int8"}, {}, "explanations in int8 were never compared"),
        (
            {"precision": "int8", "explanations": FIGURES | {"top5_overlap": 0.5}},
            {"thresholds": {"top5_overlap": 0.9}},
            "top5_overlap is 0.5000, needed is >= 0.9",
        ),
        ({"precision": "int8", "explanations": FIGURES}, {"thresholds": {}}, None),
        # What a reduced precision rounds is judged by its explanations.
        ({"precision": "int8", "explanations": FIGURES, "max_abs_error": {"logits": 0.3}}, {"thresholds": {}}, None),
        ({"precision": "int8", "explanations": FIGURES, "max_abs_error": {"sum": 0.3}}, {}, "sum differs by up to 0.3"),
    ],
)
def test_the_stored_comparison_is_judged_again(scenes, measured, report, words):
    version = newest(scenes)
    metadata, stored = (json.loads((version / f"{name}.json").read_text()) for name in ("metadata", "fidelity"))
    metadata["fidelity"] |= measured
    (version / "metadata.json").write_text(json.dumps(metadata))
    (version / "fidelity.json").write_text(json.dumps(stored | {"fidelity": metadata["fidelity"]} | report))
    if words is None:
        check_documents(scenes)
    else:
        reason, said = refusal(check_documents, scenes)
        assert reason == "fidelity"
        assert words in said


def test_a_fidelity_report_must_be_readable_and_the_metadatas_own(scenes):
    path = newest(scenes) / "fidelity.json"
    report = json.loads(path.read_text())
    for content, words in (
        ("{}", "fidelity.json cannot be read: fidelity: Field required"),
        (json.dumps(report | {"fidelity": report["fidelity"] | {"pictures": 8}}), "is not what metadata.json tells"),
    ):
        path.write_text(content)
        reason, said = refusal(check_documents, scenes)
        assert reason == "fidelity"
        assert words in said
    path.unlink()
    check_documents(scenes)


def test_signatures_follow_served_files_only(scenes):
    shutil.copytree(newest(scenes), scenes / "9")
    change_config(scenes, lambda text: with_served_version(text, 1))
    before = signature(scenes)
    (scenes / "9" / "model.onnx").write_bytes(b"")
    assert signature(scenes) == before
    (scenes / "1" / "more").touch()
    assert signature(scenes) != before
