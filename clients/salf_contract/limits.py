"""Encoded pictures from strangers: what is accepted, checked from headers before memory is spent on pixels."""

import io
import re
from enum import StrEnum

from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

from salf_contract.errors import PictureError

#: Pillow's names. A JPEG of several pictures (MPO: cameras append a preview or a depth map) counts as its first.
ACCEPTED_FORMATS = ("JPEG", "PNG", "WEBP")
#: A scan costs a pass over the whole picture. Encoders write about ten at most; previews inside a file count as well.
_MAX_SCANS = 100
_SCAN_MARKER = b"\xff\xda"
_WEBP_HEADER_BYTES = 30
_REFUSAL = re.compile(r"\b([A-Z]+(?:_[A-Z]+)+): (.*)", re.DOTALL)


class Refusal(StrEnum):
    """Why the encoded endpoint did not explain: its error messages are `CODE: sentence`."""

    PICTURE_EMPTY = "PICTURE_EMPTY"
    #: Too many bytes, pixels, frames or scans, or a side too long.
    PICTURE_TOO_LARGE = "PICTURE_TOO_LARGE"
    #: No JPEG, PNG or WebP.
    PICTURE_UNSUPPORTED = "PICTURE_UNSUPPORTED"
    #: Truncated, or its contents contradict its header.
    PICTURE_BROKEN = "PICTURE_BROKEN"
    #: Tensors missing, or of another type or shape.
    REQUEST_INVALID = "REQUEST_INVALID"
    #: The caller gave up before its turn.
    REQUEST_CANCELLED = "REQUEST_CANCELLED"
    #: The explain model is not loaded, does not answer, or changes its version at this moment.
    MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
    #: The version of the explain model that the request is pinned to is not served, or not by this endpoint.
    VERSION_NOT_SERVED = "VERSION_NOT_SERVED"
    #: A fault of the server's own.
    SERVER_FAULT = "SERVER_FAULT"


class PictureRefusedError(PictureError):
    """A picture outside the limits, or none at all.

    Attributes:
        code: why.
        sentence: the message without the code.
    """

    def __init__(self, code: Refusal, sentence: str) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code = code
        self.sentence = sentence


class PictureLimits(BaseModel):
    """What an encoded picture may be at most."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(default=8 * 2**20, ge=1, description="of the file")
    max_pixels: int = Field(default=25_000_000, ge=1, description="width x height; up to about 24 bytes of memory each")
    max_side: int = Field(default=16_384, ge=1, description="pixels of the longer side")
    max_frames: int = Field(default=1, ge=1, description="of an animated PNG or WebP; the first is explained")


def open_within(data: bytes, limits: PictureLimits) -> Image.Image:
    """Decode an encoded picture if its header is within the limits.

    Args:
        data: a whole JPEG, PNG or WebP file.
        limits: checked before any memory for pixels is taken.

    Returns:
        The decoded picture, not yet upright or RGB: pass it to `prepare`.

    Raises:
        PictureRefusedError: empty, too large, no JPEG, PNG or WebP, or broken.
    """
    if not data:
        raise PictureRefusedError(Refusal.PICTURE_EMPTY, "the picture has 0 bytes; send the bytes of a file")
    if len(data) > limits.max_bytes:
        raise _too_large(f"{len(data)} bytes", limits.max_bytes)
    # Pillow's WebP reader takes memory for the whole canvas as soon as it opens a file.
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        _check_webp_header(data, limits)
    try:
        image = Image.open(io.BytesIO(data), formats=ACCEPTED_FORMATS)
        _check_size(image.width, image.height, limits)
        if image.format == "PNG":
            _check_frames(getattr(image, "n_frames", 1), limits)
        if image.format in ("JPEG", "MPO"):
            _check_scans(data.count(_SCAN_MARKER))
        image.load()
    except PictureRefusedError:
        raise
    except UnidentifiedImageError as error:
        raise PictureRefusedError(
            Refusal.PICTURE_UNSUPPORTED, f"these {len(data)} bytes are no JPEG, PNG or WebP picture; convert it first"
        ) from error
    except Image.DecompressionBombError as error:
        raise _too_large("more pixels than Pillow opens", limits.max_pixels) from error
    # Pillow's decoders raise many kinds for broken files, and its own limits (of PNG texts, say) are among them.
    except Exception as error:
        raise broken_picture(error) from error
    return image


def broken_picture(error: BaseException) -> PictureRefusedError:
    """What to say about a picture that a decoder choked on: one line, without the decoder's own length."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return PictureRefusedError(Refusal.PICTURE_BROKEN, f"the picture is broken or truncated: {reason}")


def read_refusal(message: str) -> tuple[Refusal, str] | None:
    """Find the code and the sentence in a server's error message; None if it carries no code that this salf knows."""
    for match in _REFUSAL.finditer(message):
        if match[1] in Refusal.__members__:
            return Refusal(match[1]), match[2]
    return None


def _check_size(width: int, height: int, limits: PictureLimits) -> None:
    if max(width, height) > limits.max_side:
        raise _too_large(f"{width} x {height} pixels", f"{limits.max_side} on a side")
    if width * height > limits.max_pixels:
        raise _too_large(f"{width} x {height} = {width * height} pixels", limits.max_pixels)


def _check_frames(frames: int, limits: PictureLimits) -> None:
    if frames > limits.max_frames:
        raise _too_large(f"{frames} frames", limits.max_frames)


def _check_scans(scans: int) -> None:
    if scans > _MAX_SCANS:
        raise _too_large(f"{scans} scans", _MAX_SCANS)


def _check_webp_header(data: bytes, limits: PictureLimits) -> None:
    """Sizes as the container format states them: developers.google.com/speed/webp/docs/riff_container."""
    header, kind = data[:_WEBP_HEADER_BYTES], data[12:16]
    if len(header) < _WEBP_HEADER_BYTES:
        raise PictureRefusedError(Refusal.PICTURE_BROKEN, "the WebP picture ends within its header")
    if kind == b"VP8X":
        width = 1 + int.from_bytes(header[24:27], "little")
        height = 1 + int.from_bytes(header[27:30], "little")
        if header[20] & 0x02:  # animation
            _check_frames(max(1, data.count(b"ANMF")), limits)
    elif kind == b"VP8L":
        bits = int.from_bytes(header[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width = int.from_bytes(header[26:28], "little") & 0x3FFF
        height = int.from_bytes(header[28:30], "little") & 0x3FFF
    else:
        raise PictureRefusedError(Refusal.PICTURE_BROKEN, f"the WebP picture starts with an unknown chunk {kind!r}")
    _check_size(width, height, limits)


def _too_large(found: str, limit: int | str) -> PictureRefusedError:
    return PictureRefusedError(
        Refusal.PICTURE_TOO_LARGE, f"the picture has {found}, but this server accepts at most {limit}; make it smaller"
    )
