"""Runtimes and precisions: what is refused, what the gate sees, what stays in float, what OpenVINO computes."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import yaml
from numpy.typing import NDArray
from typer.testing import CliRunner

from demonstration.paths import CHECKPOINT
from salf_contract import ExplanationFidelity, parse_metadata
from salf_export import (
    FidelityError,
    Kind,
    MissingExtraError,
    OptionError,
    Thresholds,
    export_checkpoint,
    kinds,
    parse_kind,
    read_thresholds,
)
from salf_export.artefacts import make_artefact
from salf_export.backbone_graph import backbone_graph
from salf_export.blocks import Block, blocks_of
from salf_export.explanation_fidelity import compare_explanations, explain_with_torch
from salf_export.folding import graph_head, linear_head
from salf_export.gate import check_gate, gate_table, pressure
from salf_export.graphs import explain_graph
from salf_export.kinds import check_kind
from salf_export.openvino_model import to_openvino
from salf_export.pictures import Pictures, read_calibration, read_held_out
from salf_export.quantising import Quantiser
from salf_export.reduction import block_reports, reduce_backbone
from salf_export.runtime import GraphSession
from salf_export.sensitivity import AIM, Choice, choose_blocks
from salf_training.checkpoint import Checkpoint, load_checkpoint
from salf_training.scenes import write_scenes

INT8 = Kind("onnxruntime", "int8")
PERFECT = ExplanationFidelity(
    pictures=200, class_agreement=1, top5_overlap=1, top5_order=1, map_cosine=1, lowest_map_cosine=1,
    largest_contribution_error=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def demonstration() -> Checkpoint:
    return load_checkpoint(CHECKPOINT)


@pytest.fixture(scope="module")
def backbone(demonstration: Checkpoint) -> onnx.ModelProto:
    return backbone_graph(demonstration.model, demonstration.card.preparation)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder / "calibration", count=64, first_seed=3_000_000, workers=1)
    write_scenes(folder / "held_out", count=100, first_seed=4_000_000, workers=1)
    return folder


@pytest.fixture(scope="module")
def calibration(scenes: Path, demonstration: Checkpoint) -> NDArray[np.uint8]:
    return read_calibration(scenes / "calibration" / "images", demonstration.card.preparation).pixels


@pytest.fixture(scope="module")
def quantiser(backbone: onnx.ModelProto, calibration: NDArray[np.uint8]) -> Quantiser:
    return Quantiser(backbone, calibration)


def graph_of(source: Checkpoint, backbone: onnx.ModelProto) -> onnx.ModelProto:
    return explain_graph(backbone, graph_head(linear_head(source.model)), top=16, contract_id=np.zeros(4, np.int32))


def asked(pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
    return {"image": pixels, "target": np.full((len(pixels), 1), -1, np.int32)}


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


def test_the_gate_counts_each_figure_against_its_allowance():
    thresholds = Thresholds()
    assert pressure(PERFECT, thresholds) == 0
    check_gate(PERFECT, thresholds)
    for name, value in (
        ("class_agreement", 0.98),
        ("top5_overlap", 0.89),
        ("top5_order", 0.89),
        ("map_cosine", 0.97),
    ):
        worse = PERFECT.model_copy(update={name: value})
        with pytest.raises(FidelityError, match=rf"{name} +0\.\d+ +>= \S+  TOO LOW"):
            check_gate(worse, thresholds)
    places = PERFECT.model_copy(update={"pointing": 0.80, "pointing_source": 0.83})
    with pytest.raises(FidelityError, match=r"pointing +0\.8000 +>= 0\.8100  TOO LOW"):
        check_gate(places, thresholds)
    wrong = PERFECT.model_copy(update={"largest_contribution_error": 0.5})
    check_gate(wrong, thresholds)
    with pytest.raises(FidelityError, match="largest_contribution_error"):
        check_gate(wrong, Thresholds(contribution_error=0.4))
    assert "TOO LOW" not in gate_table(PERFECT, thresholds)


@pytest.mark.parametrize("name", ["class_agreement", "map_cosine", "largest_contribution_error", "pointing"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number_never_passes_the_gate(name, value):
    figures = PERFECT.model_copy(update={"pointing": 0.9, "pointing_source": 0.9} | {name: value})
    for thresholds in (Thresholds(), Thresholds(contribution_error=1.0)):
        assert pressure(figures, thresholds) == float("inf")
        with pytest.raises(FidelityError, match=rf"{name} .* TOO LOW"):
            check_gate(figures, thresholds)


def test_too_few_held_out_pictures_are_refused_before_anything_is_computed(tmp_path, scenes):
    folder = Path(shutil.copytree(scenes / "calibration", tmp_path / "few"))
    steps = []
    refused(tmp_path, "holds 64 pictures; .* at least 100 .*least_pictures", kind=Kind("openvino", "bf16"),
            held_out=folder, on_step=steps.append)  # fmt: skip
    assert steps == []


def test_thresholds_come_from_a_file_that_knows_its_keys(tmp_path):
    file = tmp_path / "thresholds.yaml"
    file.write_text(yaml.safe_dump({"map_cosine": 0.9}))
    assert read_thresholds(file) == Thresholds(map_cosine=0.9)
    file.write_text(yaml.safe_dump({"map_cosines": 0.9}))
    with pytest.raises(OptionError, match=r"map_cosines.*keys are class_agreement"):
        read_thresholds(file)
    with pytest.raises(OptionError, match="cannot be read"):
        read_thresholds(tmp_path / "none.yaml")


def test_blocks_are_the_stem_and_the_residual_blocks(backbone):
    blocks = blocks_of(backbone)
    names = [name for block in blocks for name in block.nodes]
    assert len(names) == len(set(names))
    assert len(blocks) == 7
    by_name = {node.name: node for node in backbone.graph.node}
    for block in blocks[3:]:
        kinds_inside = [by_name[name].op_type for name in block.nodes]
        assert kinds_inside[-2:] == ["Add", "Relu"], "a residual block ends behind its addition"
    convolutions = {node.name for node in backbone.graph.node if node.op_type == "Conv"}
    assert convolutions <= set(names)


def test_a_kept_block_has_no_int8_and_the_others_have(quantiser):
    kept = quantiser.blocks[4]
    model = quantiser.quantise(keep=[kept])
    onnx.checker.check_model(model, full_check=True)
    weights = {node.name: node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    in_float = {name for name, weight in weights.items() if not weight.endswith("DequantizeLinear_Output")}
    assert in_float == {name for name in kept.nodes if name in weights}
    assert 0 < len(in_float) < len(weights)


@dataclass
class FakeQuantiser:
    """Gives the kept blocks' names where a model would be."""

    blocks: tuple[Block, ...]

    def quantise(self, *, keep=()):
        return frozenset(block.name for block in keep)


def test_the_most_harmful_blocks_stay_in_float_and_no_more_than_needed():
    harm = {"a": 0.1, "b": 5.0, "c": 0.4, "d": 2.0}
    blocks = tuple(Block(name, (name,)) for name in harm)

    def pressure_of(kept):
        return sum(value for name, value in harm.items() if name not in kept)

    choice = choose_blocks(FakeQuantiser(blocks), pressure_of, aim=0.6)
    assert [block.name for block in choice.kept] == ["b", "d"]
    assert choice.pressure == pytest.approx(0.5)
    assert choice.alone == pytest.approx(harm)
    assert choose_blocks(FakeQuantiser(blocks), lambda _kept: 0.1).kept == ()
    hopeless = choose_blocks(FakeQuantiser(blocks), lambda _kept: 9.0)
    assert len(hopeless.kept) == 4
    assert hopeless.pressure > 1, "the gate refuses it"


def test_int8_weights_are_scaled_per_channel_and_around_zero(quantiser):
    model = quantiser.quantise()
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions
    for node in convolutions:
        weight, scale, zero = makers[node.input[1]].input
        assert constants[weight].dtype == np.int8
        assert constants[scale].shape == (len(constants[weight]),), "one scale for each output channel"
        assert not constants[zero].any()


def test_blocks_stay_in_float_for_the_explanation_where_the_class_needs_none(demonstration, backbone, calibration):
    pictures, top = Pictures(calibration[:24], "0" * 64), 16

    def kept(**asked: float) -> Choice:
        nothing = {"class_agreement": 0, "top5_overlap": 0, "top5_order": 0, "map_cosine": 0}
        return reduce_backbone(backbone, demonstration.model, pictures, kind=INT8, top=top,
                               thresholds=Thresholds(**nothing | asked))  # fmt: skip

    assert kept(class_agreement=0.99).kept == ()
    choice = kept(class_agreement=0.99, map_cosine=0.9999)
    assert 0 < len(choice.kept) < len(choice.blocks)
    assert choice.pressure <= AIM
    assert set(choice.alone) == set(choice.blocks)
    reports = block_reports(choice)
    assert {name for name, block in reports.items() if block.kept_float} == {block.name for block in choice.kept}
    expected = explain_with_torch(demonstration.model, pictures.pixels, top=top)
    reached = [
        compare_explanations(GraphSession(graph_of(demonstration, one)), pictures.pixels, expected).map_cosine
        for one in (kept(class_agreement=0.99).backbone, choice.backbone)
    ]
    assert reached[0] < 0.9999 < reached[1]


def test_int8_in_the_first_blocks_means_the_same_in_both_runtimes(demonstration, quantiser, calibration):
    """OpenVINO 2026.4 lost a convolution's bias when the graph asked for a shape behind it."""
    pytest.importorskip("openvino")
    graph = graph_of(demonstration, quantiser.quantise(keep=quantiser.blocks[2:]))
    answers = [
        make_artefact(graph, Kind(runtime, "int8")).session.run(asked(calibration[:8]))["logits"]
        for runtime in ("onnxruntime", "openvino")
    ]
    np.testing.assert_allclose(answers[0], answers[1], atol=0.3)


def test_bf16_is_in_the_backbone_alone_and_sums_stay_exact(demonstration, backbone, calibration):
    graph = graph_of(demonstration, backbone)
    model = to_openvino(graph, bf16=True)
    products = [op for op in model.get_ordered_ops() if op.get_type_name() in ("Convolution", "MatMul")]
    in_bf16 = {op.get_friendly_name().partition("/")[0]: op.get_output_element_type(0) for op in products}
    assert in_bf16.pop("backbone") == openvino.Type.bf16
    assert set(in_bf16.values()) == {openvino.Type.f32}
    answer = make_artefact(graph, Kind("openvino", "bf16")).session.run(asked(calibration[:8]))
    exact = GraphSession(graph).run(asked(calibration[:8]))
    assert 1e-3 < np.abs(answer["logits"] - exact["logits"]).max() < 0.5, "it is bf16, and close"
    total = answer["top_contributions"].sum(1) + answer["rest_contribution"][:, 0] + answer["bias"][:, 0]
    np.testing.assert_allclose(total, np.take_along_axis(answer["logits"], answer["target_class"], 1)[:, 0], atol=2e-4)


def test_the_published_ir_is_read_as_the_native_backend_reads_it(demonstration, quantiser, calibration, tmp_path):
    """Element types and layout set on every input, then a fixed batch: src/openvino.cc, ValidateInputs."""
    graph = graph_of(demonstration, quantiser.quantise())
    artefact = make_artefact(graph, Kind("openvino", "int8"))
    for name, content in artefact.files.items():
        (tmp_path / name).write_bytes(content)
    model = openvino.Core().read_model(tmp_path / "model.xml")
    steps = openvino.preprocess.PrePostProcessor(model)
    for name, kind in (("image", openvino.Type.u8), ("target", openvino.Type.i32)):
        steps.input(name).tensor().set_element_type(kind).set_layout(openvino.Layout("N..."))
    model = steps.build()
    openvino.set_batch(model, 8)
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answer = compiled(asked(calibration[:8]))
    expected = artefact.session.run(asked(calibration[:8]))
    for name, values in expected.items():
        np.testing.assert_allclose(answer[name], values, atol=1e-4, err_msg=name)


def test_a_broken_backbone_shows_in_every_figure(demonstration, backbone, calibration):
    expected = explain_with_torch(demonstration.model, calibration[:32], top=16)
    good = compare_explanations(GraphSession(graph_of(demonstration, backbone)), calibration[:32], expected)
    assert pressure(good, Thresholds()) == 0
    assert good.largest_contribution_error < 1e-4
    broken = onnx.ModelProto()
    broken.CopyFrom(backbone)
    tensor = next(t for t in broken.graph.initializer if t.name == "backbone/constant_12")
    values = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy(), tensor.name))
    bad = compare_explanations(GraphSession(graph_of(demonstration, broken)), calibration[:32], expected)
    assert bad.class_agreement < 0.9
    assert bad.map_cosine < 0.98
    assert bad.top5_order < 0.9
    assert bad.largest_contribution_error > 1


def test_an_explanation_that_breaks_is_not_published_and_the_table_is_printed(tmp_path, scenes):
    """By the command, with thresholds from a file: a table is read line by line."""
    from salf_cli.main import app

    (tmp_path / "strict.yaml").write_text("map_cosine: 1.0")
    done = CliRunner().invoke(
        app,
        ["export", str(CHECKPOINT), "--repository", str(tmp_path / "r"), "--name", "s", "--runtime", "openvino",
         "--precision", "bf16", "--held-out", str(scenes / "held_out"), "--thresholds", str(tmp_path / "strict.yaml")],
    )  # fmt: skip
    assert done.exit_code == 1, done.output
    lines = done.stderr.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [
        "on", "class_agreement", "top5_overlap", "top5_order", "map_cosine", "largest_contribution_error", "pointing",
    ]  # fmt: skip
    (missed,) = [line for line in lines if "TOO LOW" in line]
    assert missed.split() == ["map_cosine", missed.split()[1], ">=", "1", "TOO", "LOW"]
    assert "nothing was published" in lines[0]
    assert "--calibration" in lines[-1]
    assert not (tmp_path / "r").exists()


def test_a_runtime_that_answers_with_nan_uses_up_every_allowance(demonstration, backbone, calibration):
    expected = explain_with_torch(demonstration.model, calibration[:8], top=16)
    session = GraphSession(graph_of(demonstration, backbone))

    class Broken:
        def run(self, inputs):
            answer = session.run(inputs)
            return answer | {"top_contributions": np.full_like(answer["top_contributions"], np.nan)}

    assert pressure(compare_explanations(Broken(), calibration[:8], expected), Thresholds()) == float("inf")


def test_masks_are_not_taken_for_pictures(scenes, demonstration, tmp_path):
    folder = Path(shutil.copytree(scenes / "calibration", tmp_path / "pictures"))
    (folder / "masks" / "mask.png").write_bytes(next((folder / "images").rglob("*.png")).read_bytes())
    assert len(read_calibration(folder, demonstration.card.preparation)) == 64


def test_masks_tell_where_maps_point(scenes, demonstration, tmp_path):
    pictures = read_held_out(scenes / "held_out", demonstration.card.preparation, demonstration.classes)
    assert pictures.masked is not None
    flat = Path(shutil.copytree(scenes / "held_out" / "images", tmp_path / "flat"))
    assert read_held_out(flat, demonstration.card.preparation, demonstration.classes).masked is None


@pytest.mark.slow
def test_the_command_publishes_int8_with_its_report(tmp_path, scenes):
    from salf_cli.main import app

    options = ["--repository", str(tmp_path / "r"), "--name", "s", "--precision", "int8", "--json"]
    folders = ["--calibration", str(scenes / "calibration/images"), "--held-out", str(scenes / "held_out")]
    done = CliRunner().invoke(app, ["export", str(CHECKPOINT), *options, *folders])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "r/s/1/fidelity.json").read_text())
    assert report["calibration"]["pictures"] == 64
    assert report["fidelity"]["explanations"]["pointing"] > 0.5
    assert len(report["blocks"]) == 7
    document = parse_metadata((tmp_path / "r/s/1/metadata.json").read_bytes())
    assert document.fidelity is not None
    assert document.fidelity.precision == "int8"
    assert document.fidelity.explanations.model_dump() == report["fidelity"]["explanations"]
    assert document.provenance["calibration_pictures"] == "64"
    model = onnx.load(tmp_path / "r/s_all_maps/1/model.onnx")
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}, "all maps are those of the explanation"
    again = CliRunner().invoke(app, ["export", str(CHECKPOINT), *options[:4], "--precision", "bf16"])
    assert again.exit_code == 1
    assert "use --runtime openvino --precision bf16" in " ".join(again.output.split())
