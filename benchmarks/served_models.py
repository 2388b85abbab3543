"""Model repositories for benchmarks of the server: real networks with random weights, made to explain."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from benchmarks.networks import EFFICIENTNET_LITE0, RESNET_50, SIZE, TOP, Network, backbone_of, random_model
from benchmarks.report import CannotMeasureError
from salf_contract import (
    ENCODED_INPUTS,
    ENCODED_OUTPUTS,
    EXPLAIN_INPUTS,
    EXPLAIN_OUTPUTS,
    METADATA_FILE,
    PREDICTED_CLASS,
    Metadata,
    Preparation,
)
from salf_export.artefacts import make_artefact
from salf_export.folding import graph_head, linear_head
from salf_export.graph_builder import tensor_dims
from salf_export.graphs import explain_graph
from salf_export.kinds import Kind
from salf_export.publishing import publish
from salf_export.quantising import Quantiser
from salf_export.repository import ModelFolder
from salf_export.runtime import Arrays, GraphSession
from salf_export.triton_config import Role, ServingSettings, config_text

CONCEPTS, CLASSES = 1000, 100
#: What the benchmarks call small and large.
SMALL, LARGE = EFFICIENTNET_LITE0, RESNET_50
_CALIBRATION = 16
_TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float32": "TYPE_FP32"}


def make_model(
    name: str,
    network: Network,
    *,
    int8: bool = False,
    concepts: int = CONCEPTS,
    classes: int = CLASSES,
) -> tuple[ModelProto, Metadata]:
    """An explain graph and its document; `int8` quantises the whole backbone, calibrated on noise.

    Raises:
        CannotMeasureError: its explanation is empty.
    """
    model = random_model(network, concepts=concepts, classes=classes)
    document = Metadata(
        name=name,
        version=1,
        classes=tuple(f"class {number}" for number in range(classes)),
        concepts=tuple(f"concept {number}" for number in range(concepts)),
        preparation=Preparation(height=SIZE, width=SIZE),
        pooling="average",
        map_size=(network.cells, network.cells),
        top=TOP,
    )
    backbone = backbone_of(model)
    if int8:
        backbone = Quantiser(backbone, np.concatenate([picture(seed) for seed in range(_CALIBRATION)])).quantise()
    words = document.contract_id_words()
    graph = explain_graph(backbone, graph_head(linear_head(model)), top=TOP, contract_id=words)
    answer = GraphSession(graph).run(question())
    if not answer["top_maps"].any() or answer["top_concepts"].astype(np.int64).max() < 0:
        raise CannotMeasureError(f"{name} explains nothing")
    return graph, document


def publish_model(
    repository: Path, graph: ModelProto, document: Metadata, *, kind: Kind | None = None, encoded: bool = False
) -> Mapping[str, bytes]:
    """Publish an explain model as `salf export` does, with its encoded endpoint if that is wanted.

    Returns:
        The files that the runtime reads, by name.
    """
    kind = kind or Kind()
    files = make_artefact(graph, kind).files
    roles: list[Role] = ["encoded", "explain"] if encoded else ["explain"]
    models = [
        ModelFolder(
            name=_folder(document, role),
            config=config_text(
                model_name=_folder(document, role),
                role=role,
                inputs=ENCODED_INPUTS if role == "encoded" else EXPLAIN_INPUTS,
                outputs=ENCODED_OUTPUTS if role == "encoded" else EXPLAIN_OUTPUTS,
                documents={1: document},
                settings=ServingSettings(),
                runtime=kind.runtime,
                fixed_dims=None if role == "encoded" else tensor_dims(graph),
            ),
            files={**({} if role == "encoded" else files), METADATA_FILE: document.to_json().encode()},
        )
        for role in roles
    ]
    publish(repository, 1, models)
    return files


def write_repository(folder: Path, *, name: str, network: Network) -> GraphSession:
    """Write a model repository with one explain model and its probe, for `salf serve`.

    Args:
        folder: of the repository.
        name: of the model.
        network: its backbone; the weights are random.

    Returns:
        The graph, to compute right answers with.

    Raises:
        CannotMeasureError: its explanation is empty.
    """
    graph, _ = make_model(name, network)
    version = folder / name / "1"
    version.mkdir(parents=True)
    onnx.save(graph, version / "model.onnx")
    session = GraphSession(graph)
    asked = question()
    answer = session.run(asked)
    arrays: dict[str, Any] = {f"input:{key}": value for key, value in asked.items()}
    arrays |= {f"output:{key}": value for key, value in answer.items()}
    np.savez(version / "probe.npz", **arrays)
    (folder / name / "config.pbtxt").write_text(_config(name, asked, answer))
    return session


def question(batch: int = 1) -> Arrays:
    """Pictures of noise, asked for the predicted class."""
    pixels = np.concatenate([picture(seed) for seed in range(batch)])
    return {"image": pixels, "target": np.full((batch, 1), PREDICTED_CLASS, np.int32)}


def picture(seed: int) -> NDArray[np.uint8]:
    """UINT8 [1,224,224,3] of noise."""
    return np.random.default_rng(seed).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)


def _folder(document: Metadata, role: Role) -> str:
    return f"{document.name}_encoded" if role == "encoded" else document.name


def _config(name: str, inputs: Arrays, outputs: Arrays) -> str:
    def tensors(kind: str, names: list[str], arrays: Arrays) -> list[str]:
        return [
            f'{kind} [ {{ name: "{key}" data_type: {_TYPES[array.dtype.name]} dims: {list(array.shape[1:])} }} ]'
            for key, array in ((name, arrays[name]) for name in names)
        ]

    lines = [f'name: "{name}"', 'backend: "onnxruntime"', "max_batch_size: 8"]
    lines += tensors("input", [spec.name for spec in EXPLAIN_INPUTS], inputs)
    lines += tensors("output", [spec.name for spec in EXPLAIN_OUTPUTS], outputs)
    lines += ["instance_group [ { kind: KIND_CPU count: 1 } ]", "dynamic_batching { preferred_batch_size: [ 4, 8 ] }"]
    return "\n".join([*lines, ""])
