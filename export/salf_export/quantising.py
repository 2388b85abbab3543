"""int8 by static quantisation: per channel, from pictures, of the backbone alone.

The result is a standard ONNX graph of QuantizeLinear/DequantizeLinear pairs (QDQ) that ONNX Runtime, OpenVINO and
TensorRT all turn into int8 kernels. The head behind the backbone stays in float: contributions sum to the logit.
"""

import logging
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, create_calibrator
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from salf_contract import IMAGE_INPUT
from salf_export.blocks import Block, blocks_of
from salf_export.errors import GraphError

#: What is computed in int8. Everything else between two of these is computed in float.
_OPERATORS = ["Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat"]
_BATCH = 8


class Quantiser:
    """Knows the range of every tensor of a backbone, and writes int8 variants of it.

    Args:
        backbone: from `backbone_graph`.
        pictures: UINT8 [P,H,W,3], prepared; what the ranges are measured on.
        symmetric: activations in INT8 around zero, the only kind that TensorRT reads; else in UINT8 with a zero point,
            which CPUs compute faster and which loses nothing of rectified values.

    Raises:
        GraphError: ONNX Runtime's quantisation cannot handle the backbone.
    """

    def __init__(self, backbone: ModelProto, pictures: NDArray[np.uint8], *, symmetric: bool = False) -> None:
        self._symmetric = symmetric
        self._backbone = onnx.shape_inference.infer_shapes(backbone)
        self.blocks: tuple[Block, ...] = blocks_of(backbone)
        with _as_graph_errors():
            self._ranges = _measure_ranges(self._backbone, pictures)

    def quantise(self, *, keep: Collection[Block] = ()) -> ModelProto:
        """The backbone in int8, apart from some blocks.

        Args:
            keep: blocks that stay in float.

        Returns:
            A model with the backbone's input and output, opset and IR version.

        Raises:
            GraphError: ONNX Runtime's quantisation cannot handle the backbone.
        """
        kept = {name for block in keep for name in block.nodes}
        chosen = [name for block in self.blocks for name in block.nodes if name not in kept]
        model = ModelProto()
        model.CopyFrom(self._backbone)
        if not chosen:
            return _plain(model, self._backbone)
        with _as_graph_errors():
            quantizer = QDQQuantizer(
                model,
                per_channel=True,
                reduce_range=False,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QInt8 if self._symmetric else QuantType.QUInt8,
                tensors_range=self._ranges,
                nodes_to_quantize=chosen,
                nodes_to_exclude=[],
                op_types_to_quantize=_OPERATORS,
                extra_options={"WeightSymmetric": True, "ActivationSymmetric": self._symmetric},
            )
            quantised = quantizer.quantize_model()
        return _plain(quantised, self._backbone)


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    """Gives the calibrator one batch after the other."""

    def __init__(self, pictures: NDArray[np.uint8]) -> None:
        self._batches = (pictures[start : start + _BATCH] for start in range(0, len(pictures), _BATCH))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {IMAGE_INPUT.name: batch}


def _measure_ranges(backbone: ModelProto, pictures: NDArray[np.uint8]) -> TensorsData:
    with tempfile.TemporaryDirectory(prefix="salf-calibration-") as folder:
        path = Path(folder) / "backbone.onnx"
        onnx.save(backbone, path)
        calibrator = create_calibrator(
            path,
            op_types_to_calibrate=_OPERATORS,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
            providers=["CPUExecutionProvider"],
        )
        calibrator.collect_data(_Pictures(pictures))
        return calibrator.compute_data()


def _plain(quantised: ModelProto, backbone: ModelProto) -> ModelProto:
    """In the order of execution, without shape annotations and traces of the tool."""
    plain = ModelProto()
    plain.CopyFrom(quantised)
    del plain.graph.value_info[:]
    ordered = _in_order(plain)
    del plain.graph.node[:]
    plain.graph.node.extend(ordered)
    del plain.metadata_props[:]
    plain.ir_version = backbone.ir_version
    plain.producer_name, plain.producer_version = backbone.producer_name, ""
    return plain


def _in_order(model: ModelProto) -> list[NodeProto]:
    """Each node behind those whose outputs it reads: the quantiser appends its nodes at the end."""
    maker = {name: node for node in model.graph.node for name in node.output}
    places = {node.name: place for place, node in enumerate(model.graph.node)}
    sorter = TopologicalSorter(
        {node.name: [maker[name].name for name in node.input if name in maker] for node in model.graph.node}
    )
    sorter.prepare()
    ordered: list[NodeProto] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=places.__getitem__)
        ordered += [model.graph.node[places[name]] for name in ready]
        sorter.done(*ready)
    return ordered


@contextmanager
def _as_graph_errors() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it warns on the root logger that the model was not pre-processed
    try:
        yield
    # onnxruntime.quantization raises ValueError, RuntimeError, KeyError and ONNX Runtime's own classes.
    except Exception as error:
        raise GraphError(f"the backbone cannot be quantised to int8: {' '.join(str(error).split())}") from error
    finally:
        root.setLevel(level)
