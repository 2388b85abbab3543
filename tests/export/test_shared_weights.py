"""Weights that several graphs hold: one file on the disk, the same answers, the same bytes each time."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, numpy_helper

from salf_export import shared_weights
from salf_export.errors import GraphError
from salf_export.folding import graph_head
from salf_export.graph_builder import GraphBuilder, identity_features
from salf_export.graphs import all_maps_graph, all_scores_graph, explain_graph, what_if_graph
from salf_export.runtime import GraphSession
from salf_export.shared_weights import graph_files, load_graph
from salf_export.triton_config import Role
from salf_export.weight_files import link_same_files

from .test_graphs import ID, random_head

CHANNELS, CONCEPTS = 64, 300
FEATURES = np.random.default_rng(0).normal(size=(3, CHANNELS, 3, 2)).astype(np.float32)


def backbone() -> ModelProto:
    """A layer of weights that every graph holds."""
    mixing = np.random.default_rng(1).normal(size=(CHANNELS, CHANNELS, 1, 1), scale=0.1).astype(np.float32)
    graph = identity_features(CHANNELS, 3, 2)
    node = graph.graph.node[0]
    node.op_type = "Conv"
    node.input.append("mixing")
    graph.graph.initializer.append(numpy_helper.from_array(mixing, "mixing"))
    return graph


@pytest.fixture(scope="module")
def graphs() -> dict[Role, ModelProto]:
    linear = random_head(seed=1, classes=20, concepts=CONCEPTS, channels=CHANNELS, density=0.05, empty_rows=0)
    head, source = graph_head(linear), backbone()
    return {
        "all_maps": all_maps_graph(source, head, contract_id=ID),
        "all_scores": all_scores_graph(source, head, contract_id=ID),
        "what_if": what_if_graph(source, head, contract_id=ID),
        "explain": explain_graph(source, head, top=4, contract_id=ID),
    }


@pytest.fixture(autouse=True)
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_weights, "LEAST_FILE_BYTES", 1)
    monkeypatch.setattr(shared_weights, "LEAST_TENSOR_BYTES", 4096)


def write(folder: Path, files: dict[Role, dict[str, bytes]]) -> list[Path]:
    folders = []
    for role, contents in files.items():
        version = folder / role / "1"
        version.mkdir(parents=True)
        for name, content in contents.items():
            (version / name).write_bytes(content)
        folders.append(version)
    return folders


def stored_bytes(folder: Path) -> int:
    """What the disk holds: each file once, however many names it has."""
    return sum({path.stat().st_ino: path.stat().st_size for path in folder.rglob("*") if path.is_file()}.values())


def answers(model: bytes | Path) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs = {}
    for value in session.get_inputs():
        shape = [3 if isinstance(dim, str) else dim for dim in value.shape]
        inputs[value.name] = FEATURES if value.name == "features" else np.zeros(shape, np.int32)
        if value.type == "tensor(float)" and value.name != "features":
            inputs[value.name] = np.ones(shape, np.float32)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True))


def test_shared_weights_are_one_file_with_several_names(graphs, tmp_path):
    folders = write(tmp_path, graph_files(graphs))
    before = stored_bytes(tmp_path)
    saved = link_same_files(folders)
    assert saved > CHANNELS * CHANNELS * 4 * 3 + CONCEPTS * CHANNELS * 4 * 2
    assert stored_bytes(tmp_path) == before - saved
    assert link_same_files(folders) == 0
    contents: dict[bytes, set[int]] = {}
    for path in tmp_path.rglob("*.bin"):
        contents.setdefault(path.read_bytes(), set()).add(path.stat().st_ino)
    assert contents
    assert all(len(inodes) == 1 for inodes in contents.values())
    assert not list(tmp_path.rglob("*.link"))


def test_a_directory_holds_no_weights_that_its_graph_does_not_use(graphs):
    for role, files in graph_files(graphs).items():
        model = onnx.load_model_from_string(files["model.onnx"])
        used = {entry.value for t in model.graph.initializer for entry in t.external_data if entry.key == "location"}
        assert used == files.keys() - {"model.onnx"}, role
        lengths = sum(
            int(entry.value) for t in model.graph.initializer for entry in t.external_data if entry.key == "length"
        )
        assert sum(len(files[name]) for name in used) < lengths + 4096 * len(model.graph.initializer)


@pytest.mark.parametrize("linked", [True, False])
def test_onnx_runtime_answers_from_links_and_from_copies_as_from_one_file(graphs, linked, tmp_path):
    folders = write(tmp_path, graph_files(graphs))
    if linked:
        assert link_same_files(folders) > 0
    for role, graph in graphs.items():
        expected = answers(graph.SerializeToString())
        for name, values in answers(tmp_path / role / "1/model.onnx").items():
            np.testing.assert_array_equal(values, expected[name], err_msg=f"{role} {name}")


def test_a_symbolic_link_would_be_refused_by_onnx_runtime(graphs, tmp_path):
    """Why hard links: should this test fail one day, links by name have become possible."""
    folders = write(tmp_path, graph_files(graphs))
    name = next(path.name for path in folders[0].glob("*.bin") if (folders[1] / path.name).exists())
    (folders[1] / name).unlink()
    (folders[1] / name).symlink_to(Path("../..") / folders[0].parent.name / "1" / name)
    assert (folders[1] / name).read_bytes()
    with pytest.raises(Exception, match="escapes model directory"):
        answers(folders[1] / "model.onnx")


def test_a_published_graph_is_read_with_its_weights(graphs, tmp_path):
    folders = write(tmp_path, graph_files(graphs))
    link_same_files(folders)
    for role, folder in zip(graphs, folders, strict=True):
        assert load_graph(folder / "model.onnx").SerializeToString(deterministic=True) == graphs[
            role
        ].SerializeToString(deterministic=True)
    weights = next(folders[0].glob("*.bin"))
    leading_out = (
        (folders[0] / "model.onnx").read_bytes().replace(weights.name.encode(), b"../" + weights.name[3:].encode())
    )
    (folders[0] / "outside.onnx").write_bytes(leading_out)
    with pytest.raises(GraphError, match="outside its own directory"):
        load_graph(folders[0] / "outside.onnx")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(GraphError, match="too short"):
        load_graph(folders[0] / "model.onnx")
    weights.unlink()
    with pytest.raises(GraphError, match="cannot be read"):
        load_graph(folders[0] / "model.onnx")


def test_the_same_graphs_give_the_same_files_and_stay_as_they_were(graphs):
    before = {role: graph.SerializeToString(deterministic=True) for role, graph in graphs.items()}
    assert graph_files(graphs) == graph_files(graphs)
    assert {role: graph.SerializeToString(deterministic=True) for role, graph in graphs.items()} == before


def test_little_is_left_in_the_graph(graphs, monkeypatch):
    monkeypatch.setattr(shared_weights, "LEAST_FILE_BYTES", 1 << 30)
    for role, files in graph_files(graphs).items():
        assert files == {"model.onnx": graphs[role].SerializeToString(deterministic=True)}


def test_a_file_system_without_links_keeps_copies(graphs, tmp_path, monkeypatch):
    folders = write(tmp_path, graph_files(graphs))
    before = stored_bytes(tmp_path)

    def refused(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    assert link_same_files(folders) == 0
    assert stored_bytes(tmp_path) == before


def test_a_file_of_the_same_name_with_other_content_is_left_alone(graphs, tmp_path):
    folders = write(tmp_path, graph_files(graphs))
    damaged = next(folders[-1].glob("*.bin"))
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    link_same_files(folders)
    assert damaged.read_bytes()[:1] == b"x"


def test_one_graph_shares_with_nobody(graphs):
    assert graph_files({"explain": graphs["explain"]})["explain"].keys() == {"model.onnx"}
    assert GraphSession(graphs["explain"], threads=1).output_names
    assert GraphBuilder(backbone()).feature_shape == (CHANNELS, 3, 2)
