"""From a request to pixels at the model's size."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salf_contract import (
    PictureError,
    PictureLimits,
    PictureRefusedError,
    Preparation,
    Prepared,
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
        request: Triton's own, for its id and its trace.
    """

    index: int
    encoded: tuple[bytes, ...]
    target: NDArray[np.int32]
    outputs: tuple[str, ...]
    request: Any


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
