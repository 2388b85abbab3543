"""Filters of a concept list, in the published order: length, class names, other concepts, pictures, bottleneck.

Source: Oikarinen et al., "Label-free CBM", ICLR 2023, section 3.1 and appendix; thresholds are its public code's. Texts
are compared by the encoder alone (the public code mixes CLIP 3:1 with a sentence model).
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from salf_training.concept_sets.report import ConceptReport, DroppedConcept
from salf_training.encoder import Encoder
from salf_training.errors import DataError

#: Activations whose mean says how strongly a concept is present.
TOP_PICTURES = 5
#: Rows of a similarity matrix that are held at a time.
_BLOCK = 1024
_TEXTS_AT_ONCE = 256
_ARTICLES = ("a ", "an ", "the ")


#: What becomes of a concept that pictures hardly show, or that was not learnt.
Failing = Literal["drop", "mute"]


class ConceptFilters(BaseModel):
    """Thresholds with the published defaults; null leaves a filter out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int | None = Field(default=30, ge=1, description="most characters of a concept")
    class_similarity: float | None = Field(default=0.85, gt=-1, le=1, description="most cosine with a class name")
    concept_similarity: float | None = Field(default=0.9, gt=-1, le=1, description="most cosine with another concept")
    presence: float | None = Field(
        default=0.25,
        ge=-1,
        le=1,
        description="least mean of the five strongest pictures; published: 0.25 to 0.28 with CLIP ViT-B/16",
    )
    interpretability: float | None = Field(
        default=0.45, ge=-1, le=1, description="least held-out similarity of the trained bottleneck"
    )
    failing: Failing = Field(
        default="drop",
        description="what becomes of concepts that fail presence or interpretability; mute: they keep their maps, but "
        "no class may be decided by them",
    )


def filter_texts(
    concepts: Sequence[str], classes: Sequence[str], encoder: Encoder, filters: ConceptFilters
) -> ConceptReport:
    """Drop what is too long, too close to a class name, or too close to another concept.

    A class name itself, with or without an article, counts as similarity 1. Of two concepts that are too close, the one
    that is less similar to all others goes: the more general one stays.

    Args:
        concepts: M phrases, none twice.
        classes: K names as people say them.
        encoder: compares texts.
        filters: thresholds; presence and interpretability are not looked at.
    """
    report = ConceptReport(given=len(concepts), kept=tuple(concepts), dropped=())
    if (limit := filters.length) is not None:
        dropped = [
            DroppedConcept(concept=concept, reason="length", value=len(concept), threshold=limit)
            for concept in report.kept
            if len(concept) > limit
        ]
        report = _without(report, dropped)
    if filters.class_similarity is not None and report.kept:
        report = _without(report, _like_classes(report.kept, classes, encoder, filters.class_similarity))
    if filters.concept_similarity is not None and report.kept:
        report = _without(report, _like_others(report.kept, encoder, filters.concept_similarity))
    return report


def filter_absent(
    report: ConceptReport, strengths: Tensor, threshold: float, failing: Failing = "drop"
) -> ConceptReport:
    """Drop or mute concepts that are too weak in the pictures.

    Args:
        report: M' concepts kept so far.
        strengths: FP32 [M'], from `presence`.
        threshold: least strength.
        failing: what becomes of weaker ones.

    Raises:
        DataError: nothing would be left to decide by.
    """
    return _below(report, strengths, threshold, "presence", failing)


def filter_unlearnt(
    report: ConceptReport, similarities: Tensor, threshold: float, failing: Failing = "drop"
) -> ConceptReport:
    """Drop or mute concepts that the bottleneck could not learn.

    Args:
        report: M' concepts that it was trained on.
        similarities: FP32 [M'], the held-out cubed cosine.
        threshold: least similarity.
        failing: what becomes of those below.

    Raises:
        DataError: nothing would be left to decide by.
    """
    return _below(report, similarities, threshold, "interpretability", failing)


def presence(activations: Iterable[Tensor]) -> Tensor:
    """How strongly each concept is present in the data: the mean of its five strongest pictures.

    Args:
        activations: batches FP32 [B,M,G], cosines at G places of each picture; a picture counts by its strongest place.

    Returns:
        FP32 [M].

    Raises:
        DataError: no batch.
    """
    top: Tensor | None = None
    for batch in activations:
        strongest = batch.amax(dim=2)
        joined = strongest if top is None else torch.cat([top, strongest])
        top = joined.topk(min(TOP_PICTURES, len(joined)), dim=0).values
    if top is None:
        raise DataError("there are no pictures to look for concepts in")
    return top.mean(dim=0)


def embed_in_parts(encoder: Encoder, phrases: Sequence[str]) -> Tensor:
    """T phrases -> FP32 [T,D] of unit length, a few hundred at a time."""
    parts = [phrases[start : start + _TEXTS_AT_ONCE] for start in range(0, len(phrases), _TEXTS_AT_ONCE)]
    return torch.cat([encoder.embed_texts(part).float().cpu() for part in parts])


def _like_classes(
    concepts: Sequence[str], classes: Sequence[str], encoder: Encoder, threshold: float
) -> list[DroppedConcept]:
    embedded, class_texts = embed_in_parts(encoder, concepts), embed_in_parts(encoder, classes)
    closest = (embedded @ class_texts.T).max(dim=1)
    same = {_bare(name): name for name in classes}
    found = []
    for index, concept in enumerate(concepts):
        name = same.get(_bare(concept))
        value = 1.0 if name is not None else float(closest.values[index])
        other = name if name is not None else classes[int(closest.indices[index])]
        if value > threshold or name is not None:
            found.append(
                DroppedConcept(
                    concept=concept, reason="class_similarity", value=value, threshold=threshold, other=other
                )
            )
    return found


def _like_others(concepts: Sequence[str], encoder: Encoder, threshold: float) -> list[DroppedConcept]:
    embedded = embed_in_parts(encoder, concepts)
    # The sum of a concept's similarities to all others is one product with the sum of all.
    generality = embedded @ embedded.sum(dim=0)
    gone: dict[int, DroppedConcept] = {}
    for start in range(0, len(concepts), _BLOCK):
        block = embedded[start : start + _BLOCK] @ embedded.T  # [B,M]
        for row, second in (block > threshold).nonzero().tolist():
            first = start + row
            if first >= second or first in gone or second in gone:
                continue
            special, general = (first, second) if generality[first] < generality[second] else (second, first)
            gone[special] = DroppedConcept(
                concept=concepts[special],
                reason="concept_similarity",
                value=float(block[row, second]),
                threshold=threshold,
                other=concepts[general],
            )
    return [gone[index] for index in sorted(gone)]


def _below(report: ConceptReport, values: Tensor, threshold: float, reason: str, failing: Failing) -> ConceptReport:
    if len(values) != len(report.kept):
        raise DataError(f"{len(values)} values of {reason} for {len(report.kept)} concepts; they must be one each")
    below = [
        DroppedConcept.model_validate({"concept": concept, "reason": reason, "value": value, "threshold": threshold})
        for concept, value, is_below in zip(report.kept, values.tolist(), (values < threshold).tolist(), strict=True)
        if is_below
    ]
    return _without(report, below) if failing == "drop" else _checked(report.muting(below), below)


def _without(report: ConceptReport, dropped: Sequence[DroppedConcept]) -> ConceptReport:
    return _checked(report.dropping(dropped), dropped)


def _checked(report: ConceptReport, failed: Sequence[DroppedConcept]) -> ConceptReport:
    if failed and not report.deciding:
        worst = failed[0]
        raise DataError(
            f"the filter {worst.reason!r} leaves none of {report.given} concepts, e.g. {worst.concept!r}: "
            f"{worst.sentence}; choose another threshold for this encoder, or null to leave the filter out"
        )
    return report


def _bare(phrase: str) -> str:
    """Without case, underscores and article."""
    plain = " ".join(phrase.casefold().replace("_", " ").split())
    return next((plain.removeprefix(article) for article in _ARTICLES if plain.startswith(article)), plain)
