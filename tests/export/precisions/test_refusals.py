"""Runtimes, precisions and folders that do not fit are refused before anything is computed."""

import shutil
from pathlib import Path

import pytest

from demonstration.paths import CHECKPOINT
from salf_export import Kind, MissingExtraError, OptionError, export_checkpoint, kinds, parse_kind
from salf_export.kinds import check_kind
from salf_export.pictures import read_calibration, read_held_out

INT8 = Kind("onnxruntime", "int8")


@pytest.mark.parametrize(
    ("runtime", "precision", "words"),
    [
        ("caffe", "fp32", "no runtime 'caffe'; choose --runtime onnxruntime or openvino or tensorrt"),
        ("openvino", "int4", "no precision 'int4'; choose --precision fp32"),
        ("onnxruntime", "fp16", "gains nothing from fp16 on a CPU"),
        ("onnxruntime", "bf16", "no bf16 convolutions .* use --runtime openvino --precision bf16"),
        ("openvino", "fp16", "gains nothing from fp16"),
    ],
)
def test_kinds_that_make_no_sense_are_refused_with_what_does(runtime, precision, words):
    with pytest.raises(OptionError, match=words):
        check_kind(parse_kind(runtime, precision), features=frozenset({"avx512_vnni", "avx512_bf16"}))


@pytest.mark.parametrize(
    ("runtime", "precision"), [("onnxruntime", "int8"), ("openvino", "int8"), ("openvino", "bf16")]
)
def test_an_old_cpu_gets_no_reduced_precision(runtime, precision):
    with pytest.raises(OptionError, match=f"{runtime} {precision} needs a CPU with one of .*--precision fp32"):
        check_kind(Kind(runtime, precision), features=frozenset({"avx2"}))


def test_tensorrt_is_refused_where_it_is_missing_and_says_where_to_run():
    with pytest.raises(MissingExtraError, match=r"--runtime tensorrt needs .* inside the server's own image"):
        check_kind(Kind("tensorrt", "int8"))


def test_a_missing_runtime_is_told_with_the_command(monkeypatch):
    monkeypatch.setattr(kinds.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"run: pip install 'salf\[openvino\]'"):
        check_kind(Kind("openvino", "fp32"))


def refused(tmp_path: Path, words: str, **options) -> None:
    """An export that ends in one sentence and leaves no repository behind."""
    with pytest.raises(OptionError, match=words):
        export_checkpoint(CHECKPOINT, tmp_path / "r", name="s", **options)
    assert not (tmp_path / "r").exists()


def test_folders_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path, scenes):
    pictures = scenes / "calibration" / "images"
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.png").write_text("no picture")
    refused(tmp_path, "add --calibration FOLDER", kind=INT8, held_out=scenes / "held_out")
    refused(tmp_path, "add --held-out FOLDER", kind=INT8, calibration=pictures)
    refused(tmp_path, "add --held-out FOLDER", kind=Kind("openvino", "bf16"))
    refused(tmp_path, "leave --calibration out", calibration=pictures)
    both = {"kind": INT8, "held_out": scenes / "held_out"}
    refused(tmp_path, "is no folder", calibration=tmp_path / "none", **both)
    refused(tmp_path, "holds no pictures", calibration=tmp_path / "empty", **both)
    refused(tmp_path, r"a\.png cannot be read", calibration=tmp_path / "text", **both)
    refused(tmp_path, "64 of the 64 --held-out pictures are also in --calibration", kind=INT8, calibration=pictures,
            held_out=pictures)  # fmt: skip


def test_too_few_held_out_pictures_are_refused_before_anything_is_computed(tmp_path, scenes):
    folder = Path(shutil.copytree(scenes / "calibration", tmp_path / "few"))
    steps = []
    refused(tmp_path, "holds 64 pictures; .* at least 100 .*least_pictures", kind=Kind("openvino", "bf16"),
            held_out=folder, on_step=steps.append)  # fmt: skip
    assert steps == []


def test_masks_are_not_taken_for_pictures(scenes, demonstration, tmp_path):
    folder = Path(shutil.copytree(scenes / "calibration", tmp_path / "pictures"))
    (folder / "masks" / "mask.png").write_bytes(next((folder / "images").rglob("*.png")).read_bytes())
    assert len(read_calibration(folder, demonstration.card.preparation)) == 64


def test_masks_tell_where_maps_point(scenes, demonstration, tmp_path):
    pictures = read_held_out(scenes / "held_out", demonstration.card.preparation, demonstration.classes)
    assert pictures.masked is not None
    flat = Path(shutil.copytree(scenes / "held_out" / "images", tmp_path / "flat"))
    assert read_held_out(flat, demonstration.card.preparation, demonstration.classes).masked is None
