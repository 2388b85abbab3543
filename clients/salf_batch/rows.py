"""One row for each input: what the columns of a scored store are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from salf_client import Explanation

if TYPE_CHECKING:
    import pyarrow as pa

#: Column -> value; columns that are missing are null.
Row: TypeAlias = dict[str, Any]


def as_text(name: str) -> str:
    r"""A name as rows and documents can hold it: bytes that are no UTF-8, which a file's name may have, become \xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def answered_row(index: int, uri: str, explanation: Explanation, *, maps: bool) -> Row:
    """The row of a picture that was explained.

    Args:
        index: of the input in its source, from 0.
        uri: of the input.
        explanation: of the predicted class.
        maps: whether to keep the concepts' maps, as half floats.
    """
    concepts = explanation.concepts
    row: Row = {
        "index": index,
        "uri": as_text(uri),
        "label": explanation.label,
        "probability": explanation.predicted_probability,
        "concepts": [concept.name for concept in concepts],
        "contributions": [concept.contribution for concept in concepts],
        "scores": [concept.score for concept in concepts],
        "rest_contribution": explanation.rest_contribution,
        "bias": explanation.bias,
        "coverage": explanation.coverage,
        "model": explanation.model,
        "version": explanation.version,
        "contract_id": explanation.contract_id,
        "width": explanation.source_size[0],
        "height": explanation.source_size[1],
    }
    if maps:
        row["maps"] = [concept.map.astype(np.float16).ravel() for concept in concepts]
        row["map_size"] = list(concepts[0].map.shape) if concepts else None
    return row


def failed_row(index: int, uri: str, error: Exception) -> Row:
    """The row of an input that could not be read or explained."""
    return {"index": index, "uri": as_text(uri), "error": as_text(" ".join(str(error).split()))}


def schema(*, maps: bool) -> "pa.Schema":
    """Names and types of the columns."""
    import pyarrow as pa

    text, real, whole = pa.string(), pa.float32(), pa.int32()
    fields = [
        ("index", pa.int64()),
        ("uri", text),
        ("label", text),
        ("probability", real),
        ("concepts", pa.list_(text)),
        ("contributions", pa.list_(real)),
        ("scores", pa.list_(real)),
        ("rest_contribution", real),
        ("bias", real),
        ("coverage", real),
        ("model", text),
        ("version", whole),
        ("contract_id", text),
        ("width", whole),
        ("height", whole),
        ("error", text),
    ]
    if maps:
        fields += [("maps", pa.list_(pa.list_(pa.float16()))), ("map_size", pa.list_(whole))]
    return pa.schema(fields)


def as_parquet(rows: Sequence[Row], *, maps: bool) -> bytes:
    """Rows as one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(list(rows), schema=schema(maps=maps)), sink, compression="zstd")
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
