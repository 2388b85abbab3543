"""The gate: which figures it compares, what it lets through, and that nothing else is published."""

import numpy as np
import onnx
import pytest
import yaml
from explaining import graph_of
from typer.testing import CliRunner

from demonstration.paths import CHECKPOINT
from salf_contract import ExplanationFidelity
from salf_export import FidelityError, OptionError, Thresholds, read_thresholds
from salf_export.explanation_fidelity import compare_explanations, explain_with_torch
from salf_export.gate import check_gate, gate_table, pressure
from salf_export.runtime import GraphSession

PERFECT = ExplanationFidelity(
    pictures=200, class_agreement=1, top5_overlap=1, top5_order=1, map_cosine=1, lowest_map_cosine=1,
    largest_contribution_error=0,
)  # fmt: skip


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


def test_thresholds_come_from_a_file_that_knows_its_keys(tmp_path):
    file = tmp_path / "thresholds.yaml"
    file.write_text(yaml.safe_dump({"map_cosine": 0.9}))
    assert read_thresholds(file) == Thresholds(map_cosine=0.9)
    file.write_text(yaml.safe_dump({"map_cosines": 0.9}))
    with pytest.raises(OptionError, match=r"map_cosines.*keys are class_agreement"):
        read_thresholds(file)
    with pytest.raises(OptionError, match="cannot be read"):
        read_thresholds(tmp_path / "none.yaml")


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
