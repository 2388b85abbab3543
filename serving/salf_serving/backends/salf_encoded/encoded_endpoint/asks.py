"""From a request to pixels at the model's size."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salf_contract import (
    EXPLAIN_VERSION_PARAMETER,
    PROBE_REQUEST_ID,
    PictureError,
    PictureLimits,
    PictureRefusedError,
    Preparation,
    Prepared,
    Refusal,
    broken_picture,
    open_within,
    prepare,
)


@dataclass(frozen=True)
class Ask:
    """One well-formed request for B pictures.

    Attributes:
        index: its place among the requests of one execution.
        encoded: B files.
        target: INT32 [B,1], the classes asked for.
        outputs: names of what it wants.
        version: of the explain model that must answer; None takes its newest.
        request: Triton's own, for its id and its trace.
    """

    index: int
    encoded: tuple[bytes, ...]
    target: NDArray[np.int32]
    outputs: tuple[str, ...]
    version: int | None
    request: Any

    @property
    def is_probe(self) -> bool:
        """Whether the server asks itself; metrics are about clients' pictures."""
        return bool(self.request.request_id() == PROBE_REQUEST_ID)


@dataclass(frozen=True)
class Pictures:
    """A request's B pictures, prepared.

    Attributes:
        ask: the request.
        pixels: UINT8 [B,H,W,3], RGB, 0..255.
        source_size: INT32 [B,2], (width, height) in source pixels, upright.
        crop_box: FP32 [B,4], (left, top, right, bottom) in source pixels.
    """

    ask: Ask
    pixels: NDArray[np.uint8]
    source_size: NDArray[np.int32]
    crop_box: NDArray[np.float32]


def pinned_version(parameters: str) -> int | None:
    """The version of the explain model that a request names.

    Args:
        parameters: the request's, as JSON; "" if there are none.

    Raises:
        PictureRefusedError: it is no whole number from 1 on.
    """
    given = json.loads(parameters).get(EXPLAIN_VERSION_PARAMETER) if parameters else None
    if given is None:
        return None
    # A JSON true is an int in Python; clients that only write strings are understood.
    number = int(given) if isinstance(given, str) and given.isdecimal() else given
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise PictureRefusedError(
            Refusal.REQUEST_INVALID,
            f"parameter {EXPLAIN_VERSION_PARAMETER} must be a version's number, 1 or more, but is {given!r}",
        )
    return number


def prepare_pictures(ask: Ask, preparation: Preparation, limits: PictureLimits) -> Pictures:
    """Decode and prepare a request's pictures, one after the other: one decoded picture is in memory at a time.

    Raises:
        PictureRefusedError: one of them is refused; of several, the message says which.
    """
    prepared: list[Prepared] = []
    for number, data in enumerate(ask.encoded):
        try:
            prepared.append(_prepare(data, preparation, limits))
        except PictureRefusedError as error:
            if len(ask.encoded) == 1:
                raise
            raise PictureRefusedError(error.code, f"picture {number} of this request: {error.sentence}") from error
    return Pictures(
        ask=ask,
        pixels=np.stack([one.pixels for one in prepared]),
        source_size=np.array([one.source_size for one in prepared], np.int32),
        crop_box=np.array([one.crop_box for one in prepared], np.float32),
    )


def _prepare(data: bytes, preparation: Preparation, limits: PictureLimits) -> Prepared:
    image = open_within(data, limits)
    try:
        return prepare(image, preparation)
    except PictureError as error:
        raise broken_picture(error.__cause__ or error) from error
