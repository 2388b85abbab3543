"""How a picture becomes a model's input: defined once, used by training, clients and servers.

Steps: EXIF orientation, RGB, resize so that the crop covers the model's size, centre crop.
"""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from salf_contract.errors import PictureError

_ORIENTATION = 0x0112  # EXIF tag; 1 means upright
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
#: Modes whose samples are wider than 8 bits; Pillow clips them on convert("RGB"), so they are scaled first.
_SIXTEEN_BIT_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})
_TOO_MANY_PIXELS = "the picture has too many pixels: {}; make it smaller first"


class Preparation(BaseModel):
    """How pictures are brought to a model's size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    height: int = Field(ge=1, le=4096, description="pixels of the model's input")
    width: int = Field(ge=1, le=4096, description="pixels of the model's input")
    crop_fraction: float = Field(default=1.0, gt=0, le=1, description="side of the centre crop / resized side")
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


@dataclass(frozen=True)
class Prepared:
    """A picture at the model's size, and where it lay in its source.

    Attributes:
        pixels: UINT8 [H,W,3], RGB, 0..255.
        source_size: (width, height) of the source in pixels, after EXIF orientation.
        crop_box: (left, top, right, bottom) in source pixels, fractional; what lies outside was not seen.
    """

    pixels: NDArray[np.uint8]
    source_size: tuple[int, int]
    crop_box: tuple[float, float, float, float]


def decode_picture(data: bytes) -> Image.Image:
    """Decode an encoded picture (JPEG, PNG, WebP and what else Pillow reads).

    Raises:
        PictureError: the bytes are empty, no picture, truncated, or a decompression bomb.
    """
    if not data:
        raise PictureError("the picture is empty (0 bytes); pass the bytes of a JPEG, PNG or WebP file")
    try:
        image = Image.open(io.BytesIO(data))
        _check_pixels(image)
        image.load()
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(
            f"these {len(data)} bytes are no picture that can be read; pass a JPEG, PNG or WebP file"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError(_TOO_MANY_PIXELS.format(error)) from error
    # Pillow's decoders raise many kinds for broken files; all of them mean the same to the caller.
    except Exception as error:
        raise PictureError(f"the picture is broken or truncated: {error}") from error
    return image


def _check_pixels(image: Image.Image) -> None:
    """Refuse what Pillow only warns of: filters that make warnings errors belong to the whole process."""
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and image.width * image.height > most:
        raise PictureError(_TOO_MANY_PIXELS.format(f"{image.width} x {image.height}, more than {most}"))


def to_rgb(image: Image.Image) -> Image.Image:
    """Apply EXIF orientation and convert any mode to RGB; transparency is laid over white.

    Raises:
        PictureError: the picture has no pixels.
    """
    if image.width == 0 or image.height == 0:
        raise PictureError(f"the picture has no pixels (size {image.width} x {image.height})")
    image.load()  # a lazily opened file that is broken fails here, not in the middle of what follows
    # exif_transpose copies even where there is nothing to turn, and large photographs are worth not copying.
    upright = image if image.getexif().get(_ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)
    if upright.mode == "RGB":
        return upright
    if upright.mode in _SIXTEEN_BIT_MODES:
        samples = np.asarray(upright)
        if upright.mode == "I":  # 32 bits that hold 16
            samples = samples.clip(0, 0xFFFF)
        return Image.fromarray((samples // 257).astype(np.uint8)).convert("RGB")
    if upright.mode == "La":
        upright = upright.convert("LA")  # Pillow knows no direct way
    if upright.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in upright.info:
        layer = upright.convert("RGBA")
        paper = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, layer).convert("RGB")
    return upright.convert("RGB")


def array_to_picture(array: NDArray[np.uint8]) -> Image.Image:
    """Take an array as a picture.

    Args:
        array: UINT8 [H,W,3] (RGB) or [H,W] (grey), 0..255.

    Raises:
        PictureError: another type, another shape, or no pixels.
    """
    if array.dtype != np.uint8:
        raise PictureError(
            f"a picture array must be uint8 with values 0..255, but this one is {array.dtype}; convert it first"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or array.size == 0:
        raise PictureError(
            f"a picture array must have shape [height, width, 3] or [height, width], but this one has {array.shape}"
        )
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def prepare(image: Image.Image, preparation: Preparation) -> Prepared:
    """Bring a picture to the model's size: the crop is cut from the source and resized in one step.

    Args:
        image: any Pillow picture.
        preparation: the model's, from its metadata or model card.

    Returns:
        The prepared picture; a source already at the model's size (crop fraction 1) passes through unchanged.

    Raises:
        PictureError: the picture has no pixels or cannot be decoded.
    """
    try:
        rgb = to_rgb(image)
    except PictureError:
        raise
    except Exception as error:  # a lazily loaded file fails here, in any of Pillow's ways
        raise PictureError(f"the picture is broken or truncated: {error}") from error
    # The largest box of the model's aspect ratio that fits, shrunk by the crop fraction, in the centre.
    scale = min(rgb.width / preparation.width, rgb.height / preparation.height) * preparation.crop_fraction
    box_width, box_height = preparation.width * scale, preparation.height * scale
    # Rounding may push a box that touches the edges over them, by less than a millionth of a pixel.
    left, top = max(0.0, (rgb.width - box_width) / 2), max(0.0, (rgb.height - box_height) / 2)
    box = (left, top, min(left + box_width, float(rgb.width)), min(top + box_height, float(rgb.height)))
    size = (preparation.width, preparation.height)
    if rgb.size == size and preparation.crop_fraction == 1:
        pixels = np.array(rgb)
    else:
        pixels = np.array(rgb.resize(size, _RESAMPLING[preparation.interpolation], box=box))
    return Prepared(pixels=pixels, source_size=rgb.size, crop_box=box)
