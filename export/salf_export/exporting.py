"""Checkpoint -> verified models in a Triton model repository."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from salf_contract import (
    ALL_MAPS_MODEL,
    ALL_MAPS_OUTPUTS,
    ALL_SCORES_MODEL,
    ALL_SCORES_OUTPUTS,
    EXPLAIN_INPUTS,
    EXPLAIN_OUTPUTS,
    FEATURES_INPUT,
    FROM_FEATURES_INPUTS,
    FROM_FEATURES_MODEL,
    FROM_FEATURES_OUTPUTS,
    IMAGE_INPUT,
    METADATA_FILE,
    PREDICTED_CLASS,
    Fidelity,
    Metadata,
    TensorSpec,
)
from salf_export.backbone_graph import backbone_graph
from salf_export.errors import OptionError, RepositoryError, SourceError
from salf_export.folding import graph_head, linear_head
from salf_export.graph_builder import identity_features
from salf_export.graphs import all_maps_graph, all_scores_graph, explain_graph, from_features_graph
from salf_export.publishing import publish
from salf_export.repository import ModelFolder, check_name, choose_version, read_documents
from salf_export.runtime import Arrays, GraphSession
from salf_export.triton_config import GRAPH_FILE, Role, ServingSettings, config_text
from salf_export.verification import BOUND, check_pictures, smooth_picture, verify
from salf_training.checkpoint import (
    CARD_FILE,
    CLASSES_FILE,
    CONCEPTS_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    ModelCard,
    file_sha256,
    load_checkpoint,
)
from salf_training.errors import TrainingError

PROBE_FILE = "probe.npz"
DEFAULT_TOP = 16

#: The models, in the order in which they appear: whoever finds NAME finds the others too.
_ROLES: dict[Role, tuple[str, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]] = {
    "all_maps": (ALL_MAPS_MODEL, (IMAGE_INPUT,), ALL_MAPS_OUTPUTS),
    "all_scores": (ALL_SCORES_MODEL, (IMAGE_INPUT,), ALL_SCORES_OUTPUTS),
    "from_features": (FROM_FEATURES_MODEL, FROM_FEATURES_INPUTS, FROM_FEATURES_OUTPUTS),
    "explain": ("{name}", EXPLAIN_INPUTS, EXPLAIN_OUTPUTS),
}


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        repository: the model repository.
        models: names of the models; the first is the explain model, where there is one.
        version: the version written.
        top: slots of the explanation, after clipping to the number of concepts.
        contract_id: 32 hex digits that every answer carries.
        fidelity: how close the graphs are to the PyTorch model.
        graph_bytes: model name -> size of model.onnx.
    """

    repository: Path
    models: tuple[str, ...]
    version: int
    top: int
    contract_id: str
    fidelity: Fidelity
    graph_bytes: dict[str, int]


def export_checkpoint(
    checkpoint: Path,
    repository: Path,
    *,
    name: str,
    top: int = DEFAULT_TOP,
    version: int | None = None,
    pictures: NDArray[np.uint8] | None = None,
    settings: ServingSettings | None = None,
    bound: float = BOUND,
    from_features: bool = False,
) -> ExportReport:
    """Export a checkpoint as the models NAME, NAME_all_maps and NAME_all_scores, if they answer as it does.

    A checkpoint without a backbone (`features` on its card) becomes the model NAME_from_features alone.

    Args:
        checkpoint: folder written by training.
        repository: Triton model repository; made if missing.
        name: of the explain model; becomes a folder.
        top: concepts in an explanation, at least 1; more than the model has are clipped to what it has.
        version: to write; None takes the next free one. An existing version is never overwritten.
        pictures: UINT8 [P,H,W,3], prepared; the verification compares answers on them as well.
        settings: how Triton runs the models.
        bound: largest absolute difference from the PyTorch model that is published.
        from_features: publish NAME_from_features as well, which starts from the backbone's features.

    Returns:
        What was written.

    Raises:
        OptionError: a name, top, version or picture that cannot be used.
        SourceError: the checkpoint is missing, broken or cannot be folded.
        GraphError: the backbone cannot be exported.
        FidelityError: the graphs answer differently from the model; nothing is published.
        RepositoryError: the version exists, or the repository cannot take the models; it is as it was before.
    """
    check_name(name)
    if top < 1:
        raise OptionError(f"top is {top}, expected at least 1 concept in an explanation")
    family = {role: pattern.format(name=name) for role, (pattern, _, _) in _ROLES.items()}
    number = choose_version(repository, tuple(reversed(family.values())), version)
    try:
        source = load_checkpoint(checkpoint)
    except TrainingError as error:
        raise SourceError(str(error)) from error
    check_pictures(source.card, pictures)
    document = _describe(source, checkpoint, name=name, version=number, top=min(top, len(source.concepts)))
    present = {role: read_documents(repository / folder) for role, folder in family.items()}
    for documents in present.values():
        _check_sizes(document, documents)

    graphs = build_graphs(source, document, from_features=from_features)
    names = {role: family[role] for role in _ROLES if role in graphs}
    sessions = {role: GraphSession(graph) for role, graph in graphs.items()}
    contract_id = document.contract_id_words()
    fidelity = verify(sessions, source.model, source.card, contract_id=contract_id, pictures=pictures, bound=bound)
    document = document.model_copy(update={"fidelity": fidelity})

    contents = {role: graph.SerializeToString(deterministic=True) for role, graph in graphs.items()}
    models = [
        ModelFolder(
            name=names[role],
            config=config_text(
                model_name=names[role],
                role=role,
                inputs=_ROLES[role][1],
                outputs=_ROLES[role][2],
                documents={**present[role], number: document},
                settings=settings or ServingSettings(),
            ),
            files={
                GRAPH_FILE: contents[role],
                METADATA_FILE: document.to_json().encode(),
                PROBE_FILE: probe_bytes(sessions[role], source.card),
            },
        )
        for role in names
    ]
    publish(repository, number, models)
    return ExportReport(
        repository=repository,
        models=tuple(reversed(names.values())),
        version=number,
        top=document.top,
        contract_id=document.contract_id,
        fidelity=fidelity,
        graph_bytes={names[role]: len(content) for role, content in contents.items()},
    )


def build_graphs(source: Checkpoint, document: Metadata, *, from_features: bool = False) -> dict[Role, ModelProto]:
    """The graphs of a checkpoint, not yet verified.

    Args:
        source: a loaded checkpoint.
        document: its metadata; gives `top` and the contract id.
        from_features: whether to build that graph beside the others; without a backbone it is the only one.

    Raises:
        SourceError: the head's numbers cannot be used.
        GraphError: the backbone cannot be exported.
    """
    head = graph_head(linear_head(source.model))
    contract_id = document.contract_id_words()
    graphs: dict[Role, ModelProto] = {}
    if from_features or source.card.starts_from_features:
        features = identity_features(*source.card.feature_shape)
        graphs["from_features"] = from_features_graph(features, head, top=document.top, contract_id=contract_id)
    if not source.card.starts_from_features:
        backbone = backbone_graph(source.model, source.card.preparation)
        graphs["all_maps"] = all_maps_graph(backbone, head, contract_id=contract_id)
        graphs["all_scores"] = all_scores_graph(backbone, head, contract_id=contract_id)
        graphs["explain"] = explain_graph(backbone, head, top=document.top, contract_id=contract_id)
    return graphs


def probe_bytes(session: GraphSession, card: ModelCard) -> bytes:
    """A question with its known answer, as .npz: a server is ready when it answers this right.

    Arrays `input:NAME` for every input that the graph has (`image` UINT8 [1,H,W,3] or `features` FP32 [1,C,h',w'];
    `target` INT32 [1,1]) and `output:NAME` for every output, batch axis included.
    """
    questions: Arrays = {
        IMAGE_INPUT.name: smooth_picture(card.preparation.height, card.preparation.width, phase=0.5)[None],
        FEATURES_INPUT.name: np.random.default_rng(0).standard_normal((1, *card.feature_shape), np.float32),
        "target": np.full((1, 1), PREDICTED_CLASS, np.int32),
    }
    inputs = {name: questions[name] for name in session.input_names}
    arrays: dict[str, Any] = {f"input:{name}": values for name, values in inputs.items()}
    arrays |= {f"output:{name}": values for name, values in session.run(inputs).items()}
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _describe(source: Checkpoint, folder: Path, *, name: str, version: int, top: int) -> Metadata:
    """The metadata document, without fidelity."""
    card = source.card
    accuracy: dict[str, float] = {}
    if card.evaluation is not None:
        accuracy = {"accuracy": card.evaluation.accuracy, "backbone_accuracy": card.evaluation.backbone_accuracy}
        if card.evaluation.localisation is not None:
            accuracy["pointing_deciding_concepts"] = card.evaluation.localisation.deciding_concepts
            accuracy["pointing_all_objects"] = card.evaluation.localisation.all_objects
    files = "".join(file_sha256(folder / part) for part in (CARD_FILE, CLASSES_FILE, CONCEPTS_FILE, WEIGHTS_FILE))
    provenance = {
        "checkpoint_sha256": hashlib.sha256(files.encode()).hexdigest(),
        "weights_sha256": card.weights_sha256,
        "backbone": card.backbone.name,
        "concepts_per_class": f"{card.concepts_per_class:g}",
        "salf_version": package_version("salf"),
        "torch_version": package_version("torch"),
        "onnx_version": onnx.__version__,
    }
    return Metadata(
        name=name,
        version=version,
        classes=source.classes,
        concepts=source.concepts,
        preparation=card.preparation,
        pooling=card.pooling,
        map_size=card.feature_shape[1:] if card.map_size is None else card.map_size,
        top=top,
        provenance=provenance | {f"data_{key}": value for key, value in card.data.items()},
        accuracy=accuracy,
    )


def _check_sizes(document: Metadata, present: Mapping[int, Metadata]) -> None:
    """All versions of a model share one config.pbtxt, which states H, W, h, w."""

    def sizes(one: Metadata) -> tuple[int, int, int, int]:
        return (one.preparation.height, one.preparation.width, *one.map_size)

    for version, other in present.items():
        if sizes(other) != sizes(document):
            raise RepositoryError(
                f"version {version} of {document.name} has (height, width, map rows, map columns) {sizes(other)}, this "
                f"checkpoint has {sizes(document)}; versions of one model share them: export under another name"
            )
