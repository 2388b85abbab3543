"""Pictures in whatever form the caller has them."""

from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from salf_client.credentials import looked_for
from salf_client.errors import ClientError, ContractMismatchError, InvalidPictureError, MissingExtraError
from salf_contract import (
    PictureError,
    Preparation,
    Prepared,
    array_to_picture,
    decode_picture,
    prepare,
    to_rgb,
)

#: A path, the URL of an object store or web server, encoded bytes, a Pillow picture, UINT8 [H,W,3] (RGB) or [H,W], or
#: what `salf_contract.prepare` made with the model's preparation.
Picture: TypeAlias = str | Path | bytes | Image.Image | NDArray[np.uint8] | Prepared

#: Of all pictures.
FORMS = (np.ndarray, str, Path, bytes, bytearray, memoryview, Image.Image, Prepared)
#: Longest side, in pixels, of the copy that an explanation keeps for drawing.
_KEPT_SIDE = 512
#: An encoded picture is kept as it is, and decoded when it is drawn; a larger one that was decoded anyway is reduced.
_KEPT_BYTES = 2**20
#: Up to so many pixels a picture is prepared in less time than handing it to a thread takes.
_SMALL = 256 * 256


class Source:
    """A picture as the caller gave it; it is read and decoded when that is needed, once.

    Args:
        picture: in any form.

    Raises:
        InvalidPictureError: it is of none of these forms.
    """

    def __init__(self, picture: Picture) -> None:
        if not isinstance(picture, FORMS):
            raise InvalidPictureError(
                f"a picture must be a path, a URL, bytes, a Pillow image or a uint8 array, "
                f"but this is a {type(picture).__name__}"
            )
        self._given = picture
        self._pixels: NDArray[np.uint8] | None = None
        self.name = _name_of(picture)

    @property
    def is_small(self) -> bool:
        """Whether preparing it takes no longer than handing it to a thread would."""
        given = self._given
        if isinstance(given, np.ndarray):
            return given.size <= 3 * _SMALL
        return isinstance(given, Prepared) or (isinstance(given, Image.Image) and given.width * given.height <= _SMALL)

    @property
    def is_remote(self) -> bool:
        """Whether reading it asks another machine, which may not answer."""
        return isinstance(self._given, str) and "://" in self._given

    @cached_property
    def encoded(self) -> bytes | None:
        """The bytes of a file, URL or bytes object; None for pixels.

        Raises:
            InvalidPictureError: no such file, or it cannot be read.
        """
        given = self._given
        if isinstance(given, bytes | bytearray | memoryview):
            return bytes(given)
        if isinstance(given, str) and self.is_remote:
            return _read_url(given)
        if isinstance(given, str | Path):
            return _read_file(Path(given))
        return None

    @property
    def web_encoded(self) -> bytes | None:
        """The bytes if they begin as JPEG, PNG or WebP do: what an encoded endpoint takes."""
        data = self.encoded
        if data is None:
            return None
        known = data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (data[:4], data[8:12]) == (b"RIFF", b"WEBP")
        return data if known else None

    @cached_property
    def rgb(self) -> Image.Image:
        """The picture, upright and in RGB, at its full size.

        Raises:
            InvalidPictureError: no such file, no picture, truncated, or an array of another shape or type.
        """
        given = self._given
        try:
            if isinstance(given, np.ndarray):
                return array_to_picture(given)
            if isinstance(given, Prepared):
                return array_to_picture(given.pixels)
            if isinstance(given, Image.Image):
                return to_rgb(given)
            return to_rgb(decode_picture(self.encoded or b""))
        except PictureError as error:
            raise InvalidPictureError(f"{self.name}: {error}") from error
        except ClientError:  # the file was not read
            raise
        # A Pillow picture is decoded late: it may have been closed by then, or fail in any way of its decoder.
        except Exception as error:
            raise InvalidPictureError(f"{self.name}: the picture cannot be read: {error}") from error

    def prepared(self, preparation: Preparation) -> Prepared:
        """The picture at a model's size.

        Raises:
            InvalidPictureError: it cannot be prepared.
            ContractMismatchError: it was prepared already, to another size.
        """
        given = self._given
        height, width = preparation.height, preparation.width
        if isinstance(given, Prepared):
            if given.pixels.dtype != np.uint8:
                raise InvalidPictureError(
                    f"a prepared picture holds uint8, but this one holds {given.pixels.dtype}; leave it as "
                    f"salf_contract.prepare made it"
                )
            if given.pixels.shape != (height, width, 3):
                raise ContractMismatchError(
                    f"this picture was prepared to {given.pixels.shape}, but the model takes {(height, width, 3)}; "
                    f"prepare it with the model's own preparation"
                )
            return given
        if (
            isinstance(given, np.ndarray)
            and given.dtype == np.uint8
            and given.shape == (height, width, 3)
            and preparation.crop_fraction == 1
        ):
            # A copy of its own, for drawing: the caller may go on to write into the array.
            self._pixels = given.copy()
            return Prepared(self._pixels, (width, height), (0.0, 0.0, float(width), float(height)))
        try:
            return prepare(self.rgb, preparation)
        except PictureError as error:
            raise InvalidPictureError(f"{self.name}: {error}") from error

    def kept(self) -> "KeptPicture":
        """What an explanation keeps for drawing: nothing of a prepared picture, whose source is not at hand."""
        given = self._given
        if isinstance(given, Prepared):
            return KeptPicture(None)
        if isinstance(given, np.ndarray) and max(given.shape[:2]) <= _KEPT_SIDE:
            return KeptPicture(given.copy() if self._pixels is None else self._pixels)
        is_decoded = "rgb" in self.__dict__
        if not isinstance(given, np.ndarray | Image.Image) and not (
            is_decoded and len(self.encoded or b"") > _KEPT_BYTES
        ):
            return KeptPicture(self.encoded)
        return KeptPicture(_reduced(self.rgb))


class KeptPicture:
    """A picture that is decoded when it is drawn.

    Args:
        content: encoded bytes, UINT8 [H,W,3] or [H,W], a Pillow picture, or None if there is none.
    """

    __slots__ = ("_content", "_picture")

    def __init__(self, content: bytes | NDArray[np.uint8] | Image.Image | None) -> None:
        self._content = content
        self._picture: Image.Image | None = None

    def get(self) -> Image.Image:
        """The picture in RGB, at no more than 512 pixels a side.

        Raises:
            InvalidPictureError: none is kept.
        """
        if self._picture is None:
            if self._content is None:
                raise InvalidPictureError(
                    "this explanation is without its picture: it was stored so, or is of a prepared one; "
                    "pass the picture itself"
                )
            self._picture = _reduced(Source(self._content).rgb)
        return self._picture

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return self._content is not None


def _reduced(rgb: Image.Image) -> Image.Image:
    scale = _KEPT_SIDE / max(rgb.size)
    if scale >= 1:
        return rgb
    size = (max(1, round(rgb.width * scale)), max(1, round(rgb.height * scale)))
    return rgb.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InvalidPictureError(f"there is no file {path}; check the path") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidPictureError(f"{path} cannot be read ({reason}); pass the path of a picture file") from error


def _read_url(url: str) -> bytes:
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError(f"reading {url} needs fsspec; install it with: pip install 'salf[stores]'") from error
    try:
        with fsspec.open(url, "rb") as file:
            return bytes(file.read())
    except ImportError as error:  # fsspec's word for a store whose own package is missing
        raise MissingExtraError(f"{url} cannot be read: {error}") from error
    # Each store has its own errors for a missing object, a wrong key and a lost connection.
    except Exception as error:
        scheme = url.partition("://")[0]
        raise InvalidPictureError(
            f"{url} cannot be read ({_reason(error, url)}); check the address; {looked_for(scheme)}"
        ) from error


def _reason(error: Exception, url: str) -> str:
    """Why a store did not give a picture; of an address that cannot be asked, fsspec says the address alone."""
    if isinstance(error, FileNotFoundError) and str(error) == url:
        return str(error.__cause__ or "there is no such file")
    return str(error) or type(error).__name__


def _name_of(picture: object) -> str:
    if isinstance(picture, np.ndarray):
        return "array"
    if isinstance(picture, Image.Image):
        return str(getattr(picture, "filename", "") or "picture")
    return str(picture) if isinstance(picture, str | Path) else "picture"
