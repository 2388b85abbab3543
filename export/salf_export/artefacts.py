"""One graph, made ready for one runtime: the files that are published, and a session that loaded exactly these."""

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import ModelProto

from salf_contract import IMAGE_INPUT
from salf_export.errors import OptionError
from salf_export.kinds import Kind
from salf_export.runtime import GraphSession, Session
from salf_export.triton_config import GRAPH_FILE


@dataclass(frozen=True)
class Artefact:
    """What one model of an export consists of.

    Attributes:
        files: file name -> content, what the runtime reads.
        session: the loaded files.
    """

    files: Mapping[str, bytes]
    session: Session


def make_artefact(graph: ModelProto, kind: Kind) -> Artefact:
    """Convert a graph and load the result.

    Args:
        graph: for int8, with a quantised backbone.
        kind: its runtime must be installed (`kinds.check_kind`).

    Raises:
        GraphError: the runtime cannot read the graph.
        OptionError: engines of this runtime are not built here.
    """
    if kind.runtime == "onnxruntime":
        return Artefact({GRAPH_FILE: graph.SerializeToString(deterministic=True)}, GraphSession(graph))
    if kind.runtime == "openvino":
        from salf_export.openvino_model import load_files, model_files, to_openvino

        takes_pictures = IMAGE_INPUT.name in {value.name for value in graph.graph.input}
        files = model_files(to_openvino(graph, bf16=kind.precision == "bf16" and takes_pictures))
        return Artefact(files, load_files(files))
    raise OptionError(f"models of {kind.runtime} cannot be loaded on this machine, so they cannot be checked")
