"""int8: how weights are scaled, and which blocks stay in float."""

import json
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from explaining import graph_of
from typer.testing import CliRunner

from demonstration.paths import CHECKPOINT
from salf_contract import parse_metadata
from salf_export import Kind, Thresholds
from salf_export.blocks import Block, blocks_of
from salf_export.explanation_fidelity import compare_explanations, explain_with_torch
from salf_export.pictures import Pictures
from salf_export.reduction import block_reports, reduce_backbone
from salf_export.runtime import GraphSession
from salf_export.sensitivity import AIM, Choice, choose_blocks

INT8 = Kind("onnxruntime", "int8")


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
