"""Bytes of an answer on the wire, the default one against all maps: KServe v2 messages of real graphs' outputs."""

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from benchmarks.report import CannotMeasureError, Result
from salf_contract import PREDICTED_CLASS
from salf_export.folding import LinearHead, fold
from salf_export.graph_builder import identity_features
from salf_export.graphs import all_maps_graph, explain_graph
from salf_export.runtime import Arrays, GraphSession

CONCEPTS, CLASSES, CHANNELS, CELLS, TOP = 4741, 1000, 64, 7, 16
_DATATYPES = {"float32": "FP32", "int32": "INT32"}


def measure(*, quick: bool = False) -> Result:  # noqa: ARG001 - sizes need no rounds
    """Serialise one picture's answers; C does not matter for their size.

    Raises:
        CannotMeasureError: an answer is empty.
    """
    random = np.random.default_rng(0)
    head_weight = random.normal(size=(CLASSES, CONCEPTS)) * (random.random((CLASSES, CONCEPTS)) < 30 / CONCEPTS)
    head = fold(
        LinearHead(
            concept_weight=random.normal(size=(CONCEPTS, CHANNELS)),
            concept_bias=random.normal(size=CONCEPTS),
            score_mean=random.normal(size=CONCEPTS),
            score_std=random.uniform(0.5, 2, CONCEPTS),
            head_weight=head_weight,
            head_bias=random.normal(size=CLASSES),
        )
    )
    source = identity_features(CHANNELS, CELLS, CELLS)
    contract_id = random.integers(-(2**31), 2**31, 4).astype(np.int32)
    question: Arrays = {
        "features": random.normal(size=(1, CHANNELS, CELLS, CELLS)).astype(np.float32),
        "target": np.full((1, 1), PREDICTED_CLASS, np.int32),
    }
    explained = GraphSession(explain_graph(source, head, top=TOP, contract_id=contract_id)).run(question)
    maps = GraphSession(all_maps_graph(source, head, contract_id=contract_id)).run(question)
    if explained["top_concepts"].astype(np.int64).min() < 0 or not maps["all_maps"].any():
        raise CannotMeasureError("an answer is empty")
    figures = {
        "default_answer_bytes": float(message_bytes("scenes", explained)),
        "all_maps_bytes": float(message_bytes("scenes_all_maps", maps)),
    }
    return Result(
        name="answer_size",
        runs={"rounds": 1, "interleaved": "not timed", "shapes": f"M={CONCEPTS} K={CLASSES} n={TOP} {CELLS}x{CELLS}"},
        figures=figures,
        spread={name: (value, value) for name, value in figures.items()},
        notes={f"{name}_bytes": float(values.nbytes) for name, values in explained.items()},
    )


def message_bytes(model_name: str, outputs: dict[str, NDArray[np.generic]]) -> int:
    """Size of a ModelInferResponse with these outputs, as Triton sends it."""
    message = service_pb2.ModelInferResponse(model_name=model_name, model_version="1")
    for name, values in outputs.items():
        tensor = message.outputs.add()
        tensor.name, tensor.datatype = name, _DATATYPES[values.dtype.name]
        tensor.shape.extend(values.shape)
        message.raw_output_contents.append(values.tobytes())
    return int(message.ByteSize())
