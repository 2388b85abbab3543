"""The question "what is it, and why?"."""

# Functions within functions: their annotations would be evaluated at every call.
from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salf_client.answering import Question, Request
from salf_client.answers import ANSWER_TENSORS, read_answer
from salf_client.choosing import checked_top, class_index, keeps_class
from salf_client.errors import ClientError, ContractMismatchError, InvalidPictureError, InvalidRequestError
from salf_client.explanation import Explanation
from salf_client.models import ServedModel
from salf_client.pictures import Source
from salf_client.transport import Tensors
from salf_contract import (
    ENCODED_INPUT,
    ENCODED_MODEL,
    ENCODED_OUTPUTS,
    EXPLAIN_VERSION_PARAMETER,
    IMAGE_INPUT,
    PREDICTED_CLASS,
    Metadata,
)

#: How the encoded endpoint's codes for bad pictures begin.
_PICTURE_REFUSED = "PICTURE_"
_ENCODED_TENSORS = tuple(spec.name for spec in ENCODED_OUTPUTS)


def explain_question(
    source: Source, *, top: int | None, target: str | int | None, sends_encoded: bool
) -> Question[Explanation]:
    """Prepare the request: pixels, or the encoded bytes as they are where the server takes them."""

    def question(served: ServedModel) -> Request[Explanation]:
        metadata = served.current
        shown = checked_top(top, metadata)
        asked = None if target is None else class_index(target, metadata)
        encoded_model = ENCODED_MODEL.format(name=served.name)
        data = source.web_encoded if sends_encoded and encoded_model in served.neighbours else None
        if data is not None:
            return _encoded_request(source, data, served, model=encoded_model, asked=asked, shown=shown)
        return _pixels_request(source, served, asked=asked, shown=shown)

    return question


@lru_cache(maxsize=1024)
def target_tensor(asked: int | None) -> NDArray[np.int32]:
    """INT32 [1,1], read-only: the class to explain; None asks for the predicted one."""
    tensor = np.array([[PREDICTED_CLASS if asked is None else asked]], dtype=np.int32)
    tensor.setflags(write=False)
    return tensor


def _pixels_request(source: Source, served: ServedModel, *, asked: int | None, shown: int) -> Request[Explanation]:
    metadata = served.current
    prepared = source.prepared(metadata.preparation)
    kept = source.kept()  # here, where it may take its time: an answer is read on the event loop
    inputs: Mapping[str, NDArray[Any]] = {
        IMAGE_INPUT.name: prepared.pixels[np.newaxis],
        "target": target_tensor(asked),
    }

    def suits(document: Metadata) -> bool:
        fits = document.preparation == metadata.preparation and shown <= document.top
        return fits and keeps_class(asked, metadata, document)

    def read(tensors: Tensors, document: Metadata, latency_ms: float) -> Explanation:
        return read_answer(
            tensors,
            document,
            model=served.name,
            asked_target=asked,
            top=shown,
            source_size=prepared.source_size,
            crop_box=prepared.crop_box,
            picture=kept,
            latency_ms=latency_ms,
        )

    return Request(served.name, inputs, ANSWER_TENSORS, suits, read)


def _encoded_request(
    source: Source, data: bytes, served: ServedModel, *, model: str, asked: int | None, shown: int
) -> Request[Explanation]:
    metadata = served.current
    content = np.empty((1, 1), dtype=object)
    content[0, 0] = data

    def suits(document: Metadata) -> bool:
        return shown <= document.top and keeps_class(asked, metadata, document)

    def read(tensors: Tensors, document: Metadata, latency_ms: float) -> Explanation:
        size, box = tensors["source_size"], tensors["crop_box"]
        if size.shape != (1, 2) or box.shape != (1, 4):
            raise ContractMismatchError(
                f"model '{model}' answered with source_size {size.shape} and crop_box {box.shape}, expected (1, 2) "
                f"and (1, 4); export the model again"
            )
        left, top, right, bottom = box[0].tolist()
        return read_answer(
            tensors,
            document,
            model=served.name,
            asked_target=asked,
            top=shown,
            source_size=(int(size[0, 0]), int(size[0, 1])),
            crop_box=(left, top, right, bottom),
            picture=source.kept(),
            latency_ms=latency_ms,
        )

    def refused(error: InvalidRequestError) -> ClientError:
        return InvalidPictureError(f"{source.name}: {error}") if _PICTURE_REFUSED in str(error) else error

    inputs: Mapping[str, NDArray[Any]] = {ENCODED_INPUT.name: content, "target": target_tensor(asked)}
    return Request(model, inputs, _ENCODED_TENSORS, suits, read, refused, EXPLAIN_VERSION_PARAMETER)
