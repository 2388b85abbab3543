"""The questions beside "what is it, and why?": all maps, all scores, regions and edits."""

# Functions within functions: their annotations would be evaluated at every call.
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from salf_client.answering import Question, Request
from salf_client.answers import checked, read_only, softmax
from salf_client.choosing import class_index, concept_index, keeps_class
from salf_client.edits import Edit
from salf_client.errors import InvalidEditError, InvalidRegionError, TopOutOfRangeError
from salf_client.explaining import target_tensor
from salf_client.findings import ConceptChange, ConceptMaps, ConceptScore, RegionFinding, WhatIf
from salf_client.models import ServedModel
from salf_client.pictures import Source
from salf_client.places import Place
from salf_client.transport import Tensors
from salf_contract import (
    ALL_MAPS_MODEL,
    ALL_MAPS_OUTPUTS,
    ALL_SCORES_MODEL,
    ALL_SCORES_OUTPUTS,
    EDIT_SLOTS,
    IMAGE_INPUT,
    NO_CONCEPT,
    WHAT_IF_MODEL,
    WHAT_IF_OUTPUTS,
    Metadata,
    Prepared,
    TensorSpec,
)

T = TypeVar("T")
_REGION_OUTPUTS = tuple(spec for spec in WHAT_IF_OUTPUTS if spec.name in ("region_scores", "contract_id"))
_EDIT_OUTPUTS = tuple(spec for spec in WHAT_IF_OUTPUTS if spec.name != "region_scores")


def maps_question(source: Source, *, address: str) -> Question[ConceptMaps]:
    """Prepare the request for all maps."""

    def question(served: ServedModel) -> Request[ConceptMaps]:
        model = served.companion(ALL_MAPS_MODEL, question="for all concept maps", address=address)
        prepared = source.prepared(served.current.preparation)

        def read(tensors: Tensors, document: Metadata, latency_ms: float) -> ConceptMaps:  # noqa: ARG001 - not kept
            answer = checked(tensors, document, ALL_MAPS_OUTPUTS)
            return ConceptMaps(
                names=document.concepts,
                maps=read_only(answer["all_maps"]),
                model=served.name,
                version=document.version,
                contract_id=document.contract_id,
                source_size=prepared.source_size,
                crop_box=prepared.crop_box,
            )

        return _image_request(model, prepared, served.current, ALL_MAPS_OUTPUTS, read)

    return question


def scores_question(source: Source, *, address: str) -> Question[tuple[Metadata, NDArray[np.float32]]]:
    """Prepare the request for all scores; answers with the document and z FP32 [M]."""

    def question(served: ServedModel) -> Request[tuple[Metadata, NDArray[np.float32]]]:
        model = served.companion(ALL_SCORES_MODEL, question="for all concept scores", address=address)
        prepared = source.prepared(served.current.preparation)

        def read(tensors: Tensors, document: Metadata, latency_ms: float) -> tuple[Metadata, NDArray[np.float32]]:  # noqa: ARG001
            return document, checked(tensors, document, ALL_SCORES_OUTPUTS)["all_scores"]

        return _image_request(model, prepared, served.current, ALL_SCORES_OUTPUTS, read)

    return question


def region_question(source: Source, place: Place, *, top: int, address: str) -> Question[RegionFinding]:
    """Prepare the request for what is in a region.

    Raises:
        InvalidRegionError: it is no region in particular.
        TopOutOfRangeError: no concept was asked for.
    """
    if place.is_everywhere:
        raise InvalidRegionError("say where: give a point, a box or a mask")
    if top < 1:
        raise TopOutOfRangeError(f"top={top}, but a region names at least 1 concept")

    def question(served: ServedModel) -> Request[RegionFinding]:
        model = served.companion(WHAT_IF_MODEL, question="what is in a region", address=address)
        metadata = served.current
        prepared = source.prepared(metadata.preparation)
        weights = place.weights(prepared, metadata.map_size)
        inputs: dict[str, NDArray[Any]] = {
            IMAGE_INPUT.name: prepared.pixels[np.newaxis],
            "target": target_tensor(None),
            "region": weights[np.newaxis],
            **_edit_tensors((), prepared, metadata),
        }

        def read(tensors: Tensors, document: Metadata, latency_ms: float) -> RegionFinding:  # noqa: ARG001 - not kept
            scores = checked(tensors, document, _REGION_OUTPUTS)["region_scores"]
            order = np.argsort(-scores, kind="stable")[:top]
            return RegionFinding(
                concepts=tuple(
                    ConceptScore(document.concepts[index], int(index), float(scores[index])) for index in order
                ),
                scores=read_only(scores),
                unit="deviations" if document.pooling == "average" else "raw",
                weights=read_only(weights),
                model=served.name,
                version=document.version,
                contract_id=document.contract_id,
            )

        def suits(document: Metadata) -> bool:
            return document.preparation == metadata.preparation and document.map_size == metadata.map_size

        return Request(model, inputs, tuple(spec.name for spec in _REGION_OUTPUTS), suits, read)

    return question


def what_if_question(
    source: Source, edits: Sequence[Edit], *, target: str | int | None, address: str
) -> Question[WhatIf]:
    """Prepare the request for an answer before and after edits."""

    def question(served: ServedModel) -> Request[WhatIf]:
        model = served.companion(WHAT_IF_MODEL, question="what edits would change", address=address)
        metadata = served.current
        asked = None if target is None else class_index(target, metadata)
        prepared = source.prepared(metadata.preparation)
        inputs: dict[str, NDArray[Any]] = {
            IMAGE_INPUT.name: prepared.pixels[np.newaxis],
            "target": target_tensor(asked),
            "region": np.zeros((1, *metadata.map_size), dtype=np.float32),
            **_edit_tensors(edits, prepared, metadata),
        }

        def suits(document: Metadata) -> bool:
            same = document.preparation == metadata.preparation and document.map_size == metadata.map_size
            same = same and (not edits or document.concepts == metadata.concepts)
            return same and keeps_class(asked, metadata, document)

        def read(tensors: Tensors, document: Metadata, latency_ms: float) -> WhatIf:  # noqa: ARG001 - not kept
            return _read_what_if(checked(tensors, document, _EDIT_OUTPUTS), document, model=served.name)

        return Request(model, inputs, tuple(spec.name for spec in _EDIT_OUTPUTS), suits, read)

    return question


def _image_request(
    model: str,
    prepared: Prepared,
    metadata: Metadata,
    outputs: Sequence[TensorSpec],
    read: Callable[[Tensors, Metadata, float], T],
) -> Request[T]:
    return Request(
        model,
        {IMAGE_INPUT.name: prepared.pixels[np.newaxis]},
        tuple(spec.name for spec in outputs),
        lambda document: document.preparation == metadata.preparation,
        read,
    )


def _edit_tensors(edits: Sequence[Edit], prepared: Prepared, metadata: Metadata) -> dict[str, NDArray[Any]]:
    """The edits' three tensors; slots that are not used hold no concept."""
    if len(edits) > EDIT_SLOTS:
        raise InvalidEditError(f"a what-if question takes {EDIT_SLOTS} edits, but these are {len(edits)}")
    concepts = np.full((1, EDIT_SLOTS), NO_CONCEPT, dtype=np.int32)
    strengths = np.zeros((1, EDIT_SLOTS), dtype=np.float32)
    masks = np.zeros((1, EDIT_SLOTS, *metadata.map_size), dtype=np.float32)
    for slot, edit in enumerate(edits):
        concepts[0, slot] = concept_index(edit.concept, metadata)
        strengths[0, slot] = edit.strength
        masks[0, slot] = edit.where.coverage(prepared, metadata.map_size)
    return {"edit_concepts": concepts, "edit_strengths": strengths, "edit_masks": masks}


def _read_what_if(answer: dict[str, NDArray[Any]], document: Metadata, *, model: str) -> WhatIf:
    logits, edited_logits = answer["logits"], answer["edited_logits"]
    before, after = answer["contributions"], answer["edited_contributions"]
    target = int(answer["target_class"][0])
    moved = np.flatnonzero(before != after)
    moved = moved[np.argsort(-np.abs(after[moved] - before[moved]), kind="stable")]
    return WhatIf(
        label=document.classes[int(logits.argmax())],
        edited_label=document.classes[int(edited_logits.argmax())],
        target=document.classes[target],
        probability=float(softmax(logits)[target]),
        edited_probability=float(softmax(edited_logits)[target]),
        logit=float(logits[target]),
        edited_logit=float(edited_logits[target]),
        changes=tuple(
            ConceptChange(document.concepts[index], float(before[index]), float(after[index])) for index in moved
        ),
        logits=read_only(logits),
        edited_logits=read_only(edited_logits),
        contributions=read_only(before),
        edited_contributions=read_only(after),
        bias=float(answer["bias"][0]),
        classes=document.classes,
        model=model,
        version=document.version,
        contract_id=document.contract_id,
    )
