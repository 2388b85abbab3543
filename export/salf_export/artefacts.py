"""Graphs made ready for one runtime: the files that are published, and sessions that loaded exactly these."""

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto

from salf_contract import IMAGE_INPUT
from salf_export.kinds import Kind
from salf_export.runtime import LARGEST_BATCH, GraphSession, Session
from salf_export.shared_weights import graph_files
from salf_export.triton_config import GRAPH_FILE, Role


@dataclass(frozen=True)
class Artefact:
    """What one model of an export consists of.

    Attributes:
        files: file name -> content, what the runtime reads.
        session: the loaded model.
    """

    files: Mapping[str, bytes]
    session: Session


def make_artefact(graph: ModelProto, kind: Kind, *, max_batch: int = 8) -> Artefact:
    """Convert one graph and load the result.

    Args:
        graph: for int8, with a quantised backbone.
        kind: its runtime must be installed (`kinds.check_kind`).
        max_batch: the largest batch that the server forms: engines of TensorRT are built for it.

    Raises:
        GraphError: the runtime cannot read the graph.
        MissingExtraError: the runtime is not installed.
    """
    if kind.runtime == "openvino":
        from salf_export.openvino_model import load_files, model_files, to_openvino

        takes_pictures = IMAGE_INPUT.name in {value.name for value in graph.graph.input}
        files = model_files(to_openvino(graph, bf16=kind.precision == "bf16" and takes_pictures))
        return Artefact(files, load_files(files))
    if kind.runtime == "tensorrt":
        from salf_export.tensorrt_engine import PLAN_FILE, EngineSettings, build_engine
        from salf_export.tensorrt_session import EngineSession

        settings = EngineSettings(
            precision=kind.precision, optimal_batch=max_batch, max_batch=max(max_batch, LARGEST_BATCH)
        )
        plan = build_engine(graph.SerializeToString(deterministic=True), settings)
        return Artefact({PLAN_FILE: plan}, EngineSession(plan))
    return Artefact({GRAPH_FILE: graph.SerializeToString(deterministic=True)}, GraphSession(graph))


def make_artefacts(graphs: Mapping[Role, ModelProto], kind: Kind, *, max_batch: int) -> dict[Role, Artefact]:
    """Convert the graphs of one export and load the results; ONNX graphs share their weights' files.

    Raises:
        GraphError: the runtime cannot read a graph.
        MissingExtraError: the runtime is not installed.
    """
    artefacts = {role: make_artefact(graph, kind, max_batch=max_batch) for role, graph in graphs.items()}
    if kind.runtime != "onnxruntime":
        return artefacts
    shared = graph_files(graphs)
    return {role: Artefact(shared[role], artefact.session) for role, artefact in artefacts.items()}
