"""Explanations as plain values, as JSON and as Arrow tables, and back."""

import base64
import io
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from salf_client.errors import MissingExtraError, StoredExplanationError
from salf_client.explanation import ConceptEvidence, Explanation
from salf_client.pictures import KeptPicture

if TYPE_CHECKING:
    import pyarrow as pa

#: Of the stored form; goes up when a field changes its meaning.
FORMAT = 1


def to_plain(explanation: Explanation, *, maps: bool, picture: bool) -> dict[str, Any]:
    """An explanation as values that JSON and Arrow know.

    Args:
        explanation: to store.
        maps: whether to keep the concepts' maps.
        picture: whether to keep the picture, at no more than 512 pixels a side, as a JPEG in base64.
    """
    plain: dict[str, Any] = {
        "format": FORMAT,
        "model": explanation.model,
        "version": explanation.version,
        "contract_id": explanation.contract_id,
        "label": explanation.label,
        "label_index": explanation.label_index,
        "predicted_probability": explanation.predicted_probability,
        "target": explanation.target,
        "target_index": explanation.target_index,
        "probability": explanation.probability,
        "logit": explanation.logit,
        "bias": explanation.bias,
        "rest_contribution": explanation.rest_contribution,
        "coverage": explanation.coverage,
        "concepts": [_concept_to_plain(concept, maps=maps) for concept in explanation.concepts],
        "logits": explanation.logits.tolist(),
        "source_size": list(explanation.source_size),
        "crop_box": list(explanation.crop_box),
        "latency_ms": explanation.latency_ms,
    }
    if picture:
        buffer = io.BytesIO()
        explanation.picture.save(buffer, "JPEG", quality=85)
        plain["picture"] = base64.b64encode(buffer.getvalue()).decode()
    return plain


def from_plain(plain: Mapping[str, Any]) -> Explanation:
    """Read what `to_plain` wrote.

    Raises:
        StoredExplanationError: fields are missing or of another type, or a later salf wrote it.
    """
    try:
        if plain["format"] != FORMAT:
            raise StoredExplanationError(
                f"this explanation has format {plain['format']}; this salf reads {FORMAT}; use the salf that wrote it"
            )
        picture = plain.get("picture")
        left, top, right, bottom = map(float, plain["crop_box"])
        return Explanation(
            label=str(plain["label"]),
            label_index=int(plain["label_index"]),
            target=str(plain["target"]),
            target_index=int(plain["target_index"]),
            concepts=tuple(_concept_from_plain(concept) for concept in plain["concepts"]),
            rest_contribution=float(plain["rest_contribution"]),
            bias=float(plain["bias"]),
            coverage=float(plain["coverage"]),
            logits=_array(plain["logits"], dimensions=1),
            model=str(plain["model"]),
            version=int(plain["version"]),
            contract_id=str(plain["contract_id"]),
            source_size=(int(plain["source_size"][0]), int(plain["source_size"][1])),
            crop_box=(left, top, right, bottom),
            latency_ms=float(plain["latency_ms"]),
            kept=KeptPicture(None if picture is None else base64.b64decode(picture, validate=True)),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise StoredExplanationError(
            f"this is no stored explanation ({type(error).__name__}: {error}); store one with to_json or to_arrow"
        ) from error


def from_json(text: str | bytes) -> Explanation:
    """Read one JSON document.

    Raises:
        StoredExplanationError: no JSON, or no explanation.
    """
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise StoredExplanationError(f"this is no JSON: {error}") from error
    if not isinstance(plain, dict):
        raise StoredExplanationError(f"expected one JSON object, but this is a {type(plain).__name__}")
    return from_plain(plain)


def to_arrow(explanations: Iterable[Explanation], *, maps: bool = True, picture: bool = False) -> "pa.Table":
    """Explanations as an Arrow table, one row each, columns as in `Explanation.to_dict`.

    Args:
        explanations: of any models.
        maps: whether to keep the concepts' maps.
        picture: whether to keep the pictures.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    arrow = _arrow()
    rows = [to_plain(explanation, maps=maps, picture=picture) for explanation in explanations]
    return arrow.Table.from_pylist(rows, schema=_schema(arrow, picture=picture))


def from_arrow(table: "pa.Table") -> list[Explanation]:
    """Read what `to_arrow` wrote.

    Raises:
        StoredExplanationError: columns are missing or damaged.
    """
    return [from_plain(row) for row in table.to_pylist()]


def _schema(arrow: Any, *, picture: bool) -> Any:
    """FP32 for what the model computed in it; all else as Python has it."""
    text, integer, real = arrow.string(), arrow.int64(), arrow.float64()
    concept = [("name", text), ("index", integer), ("contribution", real), ("score", real)]
    concept += [("present", arrow.bool_()), ("speaks_for", arrow.bool_()), ("wording", text)]
    concept += [("map", arrow.list_(arrow.list_(arrow.float32())))]
    fields = [("format", integer), ("model", text), ("version", integer), ("contract_id", text)]
    fields += [("label", text), ("label_index", integer), ("predicted_probability", real)]
    fields += [("target", text), ("target_index", integer), ("probability", real)]
    fields += [(name, real) for name in ("logit", "bias", "rest_contribution", "coverage")]
    fields += [("concepts", arrow.list_(arrow.struct(concept))), ("logits", arrow.list_(arrow.float32()))]
    fields += [("source_size", arrow.list_(integer)), ("crop_box", arrow.list_(real)), ("latency_ms", real)]
    return arrow.schema(fields + ([("picture", text)] if picture else []))


def _arrow() -> Any:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingExtraError("Arrow needs pyarrow; install it with: pip install 'salf[arrow]'") from error
    return pa


def _concept_to_plain(concept: ConceptEvidence, *, maps: bool) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "name": concept.name,
        "index": concept.index,
        "contribution": concept.contribution,
        "score": concept.score,
        "present": concept.present,
        "speaks_for": concept.speaks_for,
        "wording": concept.wording,
    }
    return {**plain, "map": concept.map.tolist()} if maps else plain


def _concept_from_plain(plain: Mapping[str, Any]) -> ConceptEvidence:
    kept = plain.get("map")
    return ConceptEvidence(
        name=str(plain["name"]),
        index=int(plain["index"]),
        contribution=float(plain["contribution"]),
        score=float(plain["score"]),
        map=_array([[]] if kept is None else kept, dimensions=2),
    )


def _array(values: Any, *, dimensions: int) -> Any:
    array = np.array(values, dtype=np.float32)
    if array.ndim != dimensions:
        raise ValueError(f"expected an array of {dimensions} dimensions, not {array.ndim}")
    array.setflags(write=False)
    return array
