"""Checkpoint -> verified models in a Triton model repository."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from salf_contract import (
    ALL_MAPS_MODEL,
    ALL_MAPS_OUTPUTS,
    ALL_SCORES_MODEL,
    ALL_SCORES_OUTPUTS,
    ENCODED_INPUTS,
    ENCODED_MODEL,
    ENCODED_OUTPUTS,
    EXPLAIN_INPUTS,
    EXPLAIN_OUTPUTS,
    FIDELITY_FILE,
    FROM_FEATURES_INPUTS,
    FROM_FEATURES_MODEL,
    FROM_FEATURES_OUTPUTS,
    IMAGE_INPUT,
    METADATA_FILE,
    WHAT_IF_INPUTS,
    WHAT_IF_MODEL,
    WHAT_IF_OUTPUTS,
    Fidelity,
    Metadata,
    TensorSpec,
    Thresholds,
)
from salf_export.artefacts import Artefact, make_artefacts
from salf_export.backbone_graph import backbone_graph
from salf_export.description import describe
from salf_export.errors import OptionError, SourceError
from salf_export.explanation_fidelity import compare_with_source
from salf_export.folding import graph_head, linear_head
from salf_export.gate import check_enough, check_gate
from salf_export.graph_builder import identity_features, tensor_dims
from salf_export.graphs import (
    all_maps_graph,
    all_scores_graph,
    explain_graph,
    from_features_graph,
    what_if_graph,
)
from salf_export.kinds import FP32, Kind, check_kind
from salf_export.pictures import read_pictures
from salf_export.probes import PROBE_FILE, encoded_probe_bytes, probe_bytes
from salf_export.publishing import publish
from salf_export.reduction import (
    FidelityReport,
    block_reports,
    check_folders,
    picture_set,
    reduce_backbone,
)
from salf_export.repository import ModelFolder, check_name, check_sizes, choose_version, read_documents
from salf_export.triton_config import Role, ServingSettings, config_text
from salf_export.verification import BOUND, check_pictures, verify
from salf_training.checkpoint import Checkpoint, load_checkpoint
from salf_training.errors import TrainingError

DEFAULT_TOP = 16

#: The models, in the order in which they appear: whoever finds NAME finds the others too.
_ROLES: dict[Role, tuple[str, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]] = {
    "all_maps": (ALL_MAPS_MODEL, (IMAGE_INPUT,), ALL_MAPS_OUTPUTS),
    "all_scores": (ALL_SCORES_MODEL, (IMAGE_INPUT,), ALL_SCORES_OUTPUTS),
    "what_if": (WHAT_IF_MODEL, WHAT_IF_INPUTS, WHAT_IF_OUTPUTS),
    "from_features": (FROM_FEATURES_MODEL, FROM_FEATURES_INPUTS, FROM_FEATURES_OUTPUTS),
    "encoded": (ENCODED_MODEL, ENCODED_INPUTS, ENCODED_OUTPUTS),
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
        graph_bytes: model name -> size of what its runtime reads; models may share weights.
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
    encoded: bool = True,
    kind: Kind = FP32,
    calibration: Path | None = None,
    held_out: Path | None = None,
    thresholds: Thresholds | None = None,
    on_step: Callable[[str], None] = lambda _text: None,
) -> ExportReport:
    """Export a checkpoint as NAME and the models beside it, if they answer as it does.

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
        encoded: publish NAME_encoded as well, which takes JPEG, PNG or WebP; servers need the backend `salf_encoded`.
        kind: runtime and precision. All models that take pictures share the reduced backbone, so that they agree with
            one another; every head stays in float32.
        calibration: folder of pictures that int8 is calibrated on, and that decide which blocks stay in float.
        held_out: folder of other pictures; explanations are compared on them, and places too where it has masks/.
        thresholds: what explanations must reach on these.
        on_step: told what is being done.

    Returns:
        What was written.

    Raises:
        OptionError: a name, top, version, picture or kind that cannot be used, or not on this machine.
        MissingExtraError: the runtime is not installed.
        SourceError: the checkpoint is missing, broken or cannot be folded.
        GraphError: the backbone cannot be exported.
        FidelityError: the graphs answer differently from the model; nothing is published.
        RepositoryError: the version exists, or the repository cannot take the models; it is as it was before.
    """
    check_name(name)
    check_kind(kind)
    settings = settings or ServingSettings()
    check_folders(kind, calibration=calibration, held_out=held_out)
    if top < 1:
        raise OptionError(f"top is {top}, expected at least 1 concept in an explanation")
    family = {role: pattern.format(name=name) for role, (pattern, _, _) in _ROLES.items()}
    number = choose_version(repository, tuple(reversed(family.values())), version)
    source = _loaded(checkpoint)
    check_pictures(source.card, pictures)
    thresholds = thresholds or Thresholds()
    known = read_pictures(source, calibration=calibration, held_out=held_out)
    if known.held_out is not None:
        check_enough(len(known.held_out), thresholds)
    document = describe(
        source,
        checkpoint,
        name=name,
        version=number,
        top=min(top, len(source.concepts)),
        kind=kind,
        calibration=known.calibration,
    )
    present = {role: read_documents(repository / folder) for role, folder in family.items()}
    for documents in present.values():
        check_sizes(document, documents)

    backbone = None if source.card.starts_from_features else backbone_graph(source.model, source.card.preparation)
    choice = None
    if backbone is not None and known.calibration is not None:
        choice = reduce_backbone(
            backbone,
            source.model,
            known.calibration,
            kind=kind,
            top=document.top,
            thresholds=thresholds,
            on_step=on_step,
        )
        backbone = choice.backbone
    graphs = build_graphs(source, document, backbone=backbone, from_features=from_features)
    artefacts = make_artefacts(graphs, kind, max_batch=settings.max_batch_size)
    sessions = {role: artefact.session for role, artefact in artefacts.items()}
    on_step("comparing with the PyTorch model")
    fidelity = verify(
        sessions,
        source.model,
        source.card,
        contract_id=document.contract_id_words(),
        pictures=pictures,
        bound=bound,
        precision=kind.precision,
    )
    if known.held_out is not None:
        figures = compare_with_source(sessions["explain"], sessions["all_maps"], source, known.held_out, document.top)
        check_gate(figures, thresholds)
        fidelity = fidelity.model_copy(update={"explanations": figures})
    if choice is not None:
        fidelity = fidelity.model_copy(update={"kept_float": tuple(block.name for block in choice.kept)})
    document = document.model_copy(update={"fidelity": fidelity})
    report = FidelityReport(
        fidelity=fidelity,
        bound=bound,
        thresholds=None if known.held_out is None else thresholds,
        held_out=picture_set(known.held_out),
        calibration=picture_set(known.calibration),
        blocks=block_reports(choice),
    )

    files = _files(artefacts, source, encoded=encoded)
    names = {role: family[role] for role in _ROLES if role in files}
    told = {FIDELITY_FILE: report.to_json().encode(), METADATA_FILE: document.to_json().encode()}
    models = [
        ModelFolder(
            name=names[role],
            config=config_text(
                model_name=names[role],
                role=role,
                inputs=_ROLES[role][1],
                outputs=_ROLES[role][2],
                documents={**present[role], number: document},
                settings=settings,
                runtime=kind.runtime,
                fixed_dims=tensor_dims(graphs[role]) if role in graphs else None,
            ),
            files=files[role] | told,
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
        graph_bytes={names[role]: sum(map(len, artefact.files.values())) for role, artefact in artefacts.items()},
    )


def _loaded(checkpoint: Path) -> Checkpoint:
    try:
        return load_checkpoint(checkpoint)
    except TrainingError as error:
        raise SourceError(str(error)) from error


def _files(artefacts: Mapping[Role, Artefact], source: Checkpoint, *, encoded: bool) -> dict[Role, dict[str, bytes]]:
    """What each model's runtime reads, and its probe."""
    concepts = len(source.concepts)
    files = {
        role: {**artefact.files, PROBE_FILE: probe_bytes(artefact.session, source.card, concepts=concepts)}
        for role, artefact in artefacts.items()
    }
    if encoded and "explain" in artefacts:
        # No graph of its own: it asks the explain model.
        files["encoded"] = {PROBE_FILE: encoded_probe_bytes(artefacts["explain"].session, source.card.preparation)}
    return files


def build_graphs(
    source: Checkpoint, document: Metadata, *, backbone: ModelProto | None = None, from_features: bool = False
) -> dict[Role, ModelProto]:
    """The graphs of a checkpoint, not yet verified.

    Args:
        source: a loaded checkpoint.
        document: its metadata; gives `top` and the contract id.
        backbone: stands in every graph that takes pictures; None exports it from the checkpoint.
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
        backbone = backbone_graph(source.model, source.card.preparation) if backbone is None else backbone
        graphs["all_maps"] = all_maps_graph(backbone, head, contract_id=contract_id)
        graphs["all_scores"] = all_scores_graph(backbone, head, contract_id=contract_id)
        graphs["what_if"] = what_if_graph(backbone, head, contract_id=contract_id)
        graphs["explain"] = explain_graph(backbone, head, top=document.top, contract_id=contract_id)
    return graphs
