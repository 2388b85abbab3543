"""What a changed repository must prove before it is served: hashes, documents, and a trial (here without a server)."""

import json
import os
import shutil
from pathlib import Path

import pytest

from salf_contract import FileStamp, Manifest, with_field, with_parameter, with_served_version
from salf_serving import ProbeError, RefusedVersionError
from salf_serving.control import retiring
from salf_serving.errors import ProbeTimeoutError, ServerDiedError, StartError, StartupTimeoutError
from salf_serving.restarts import MOST_DEATHS, Restarts
from salf_serving.snapshot import copy_model, signature, versions_to_serve
from salf_serving.verification import check_documents, check_files, family_of
from salf_serving.watch import RepositoryWatch

COMMITTED = Path(__file__).parents[2] / "model_repository"


@pytest.fixture
def scenes(tmp_path) -> Path:
    """The committed model, in a repository of its own."""
    return Path(shutil.copytree(COMMITTED / "scenes", tmp_path / "repository" / "scenes"))


def newest(model: Path) -> Path:
    return versions_to_serve(model)[-1]


def write_manifest(folder: Path, **changes) -> None:
    files = {path.name: FileStamp.of(path.read_bytes()) for path in folder.iterdir() if path.name != "manifest.json"}
    given = {"model": folder.parent.name, "version": int(folder.name), "family": (folder.parent.name,),
             "published_at": "2026-01-01T00:00:00Z", "files": files}  # fmt: skip
    (folder / "manifest.json").write_text(Manifest(**given | changes).to_json())


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


def test_signatures_follow_served_files_only(scenes):
    shutil.copytree(newest(scenes), scenes / "9")
    change_config(scenes, lambda text: with_served_version(text, 1))
    before = signature(scenes)
    (scenes / "9" / "model.onnx").write_bytes(b"")
    assert signature(scenes) == before
    (scenes / "1" / "more").touch()
    assert signature(scenes) != before


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
