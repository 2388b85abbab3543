"""OpenVINO: an ONNX graph as model.xml and model.bin, in fp32, bf16, or in the int8 that the graph itself carries."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from onnx import ModelProto
from openvino import opset13

from salf_export.errors import GraphError
from salf_export.runtime import OpenVinoSession

XML_FILE, WEIGHTS_FILE = "model.xml", "model.bin"
_FEATURES = "backbone_features"
#: Operations that bf16 speeds up; the backbone is bf16 from the first of them on.
_HEAVY = frozenset({"Convolution", "GroupConvolution", "MatMul"})


def to_openvino(graph: ModelProto, *, bf16: bool = False) -> Any:
    """Read a graph into an `openvino.Model`.

    Args:
        graph: a served graph; a quantised backbone keeps its int8.
        bf16: compute the backbone, from its first convolution or product to its features, in bfloat16. The types are
            written into the model: OpenVINO's own hint would turn the head into bfloat16 too, and contributions would
            no longer sum to the logit.

    Raises:
        GraphError: OpenVINO cannot read the graph.
    """
    try:
        model = openvino.Core().read_model(graph.SerializeToString())
        if bf16:
            _backbone_in_bf16(model)
    # OpenVINO raises RuntimeError and classes of its own.
    except Exception as error:
        raise GraphError(
            f"OpenVINO cannot read the graph {graph.graph.name!r}: {' '.join(str(error).split())}"
        ) from error
    return model


def model_files(model: Any) -> dict[str, bytes]:
    """The model as OpenVINO's intermediate representation: file name -> content."""
    with tempfile.TemporaryDirectory(prefix="salf-openvino-") as folder:
        xml, weights = Path(folder) / XML_FILE, Path(folder) / WEIGHTS_FILE
        openvino.serialize(model, xml, weights)
        return {XML_FILE: xml.read_bytes(), WEIGHTS_FILE: weights.read_bytes()}


def load_files(files: Mapping[str, bytes], *, threads: int = 2) -> OpenVinoSession:
    """Load what `model_files` gave.

    Args:
        files: file name -> content.
        threads: of one inference.
    """
    # A tensor of its own: given bytes, OpenVINO reads them where they lie, even when they are long gone.
    weights = openvino.Tensor(np.frombuffer(files[WEIGHTS_FILE], np.uint8), shared_memory=False)
    return OpenVinoSession(openvino.Core().read_model(files[XML_FILE].decode(), weights), threads=threads)


def _backbone_in_bf16(model: Any) -> None:
    features = next((op.output(0) for op in model.get_ordered_ops() if _gives(op, _FEATURES)), None)
    if features is None:
        raise ValueError(f"it has no tensor {_FEATURES!r}")
    needed = _ancestors(features.get_node())
    region: set[str] = set()
    for op in model.get_ordered_ops():
        name = op.get_friendly_name()
        if name not in needed or not _is_float(op) or op.get_type_name() == "Constant":
            continue
        sources = {source.get_node().get_friendly_name() for source in op.input_values()}
        if op.get_type_name() in _HEAVY or sources & region:
            region.add(name)
            for port in op.inputs():
                _read_in_bf16(port, region)
            op.validate_and_infer_types()
    for port in list(features.get_target_inputs()):
        port.replace_source_output(_converted(features, "f32"))
    model.validate_nodes_and_infer_types()


def _read_in_bf16(port: Any, region: Iterable[str]) -> None:
    """Give an input of a bf16 operation its value in bf16; integers (shapes, axes) stay."""
    source = port.get_source_output()
    node = source.get_node()
    if source.get_element_type() == openvino.Type.f32 and node.get_friendly_name() not in region:
        port.replace_source_output(_converted(source, "bf16"))


def _converted(output: Any, kind: str) -> Any:
    """The value as another type; a constant is stored in bf16 at once."""
    node = output.get_node()
    if kind == "bf16" and node.get_type_name() == "Constant":
        return _bf16_constant(np.array(node.data, np.float32)).output(0)
    return opset13.convert(output, kind).output(0)


def _bf16_constant(values: NDArray[np.float32]) -> Any:
    """Numbers rounded to the nearest bfloat16."""
    return opset13.constant(values, dtype=openvino.Type.bf16)


def _ancestors(node: Any) -> set[str]:
    """Names of everything that a node is computed from, itself included."""
    found: set[str] = set()
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one.get_friendly_name() not in found:
            found.add(one.get_friendly_name())
            waiting += [source.get_node() for source in one.input_values()]
    return found


def _gives(op: Any, name: str) -> bool:
    return any(name in output.get_names() for output in op.outputs())


def _is_float(op: Any) -> bool:
    return any(output.get_element_type() in (openvino.Type.f32, openvino.Type.bf16) for output in op.outputs())
