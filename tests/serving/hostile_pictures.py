"""Files that nobody should send, from a fixed seed: mutated, truncated, oversized, bomb-like and mislabelled ones."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

SIDE = 48
_MANY_SCANS = 150


def good_files() -> dict[str, bytes]:
    """Small valid files of every kind that the endpoint takes; the names say which."""
    random = np.random.default_rng(11)
    colour = random.integers(0, 256, (SIDE, SIDE + 9, 3), dtype=np.uint8)
    image, grey = Image.fromarray(colour), Image.fromarray(colour[..., 0])
    alpha = image.copy()
    alpha.putalpha(grey)
    palette = image.quantize(16)
    palette.info["transparency"] = 3
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(random.integers(0, 2**16, (SIDE, SIDE), dtype=np.uint16))
    return {
        "jpeg": _encoded(image, "JPEG", quality=90),
        "jpeg progressive": _encoded(image, "JPEG", progressive=True),
        "jpeg turned": _encoded(image, "JPEG", exif=exif),
        "jpeg cmyk": _encoded(image.convert("CMYK"), "JPEG"),
        "jpeg grey": _encoded(grey, "JPEG"),
        "jpeg of two pictures": _encoded(image, "MPO", save_all=True, append_images=[image]),
        "png": _encoded(image, "PNG"),
        "png alpha": _encoded(alpha, "PNG"),
        "png palette": _encoded(palette, "PNG", transparency=3),
        "png 16 bit": _encoded(wide, "PNG"),
        "png grey alpha": _encoded(alpha.convert("LA"), "PNG"),
        "png 1 bit": _encoded(grey.convert("1"), "PNG"),
        "webp": _encoded(image, "WEBP", quality=70),
        "webp lossless alpha": _encoded(alpha, "WEBP", lossless=True),
    }


def refused_files() -> dict[str, bytes]:
    """Valid files that must be refused: other formats, animations, and sizes that are only claimed."""
    image = Image.fromarray(np.arange(SIDE * SIDE * 3, dtype=np.uint8).reshape(SIDE, SIDE, 3))
    frames = [image.rotate(angle) for angle in (10, 20, 30)]
    return {
        "gif": _encoded(image, "GIF"),
        "bmp": _encoded(image, "BMP"),
        "tiff": _encoded(image, "TIFF"),
        "animated png": _encoded(image, "PNG", save_all=True, append_images=frames),
        "animated webp": _encoded(image, "WEBP", save_all=True, append_images=frames),
        "png of 60000 x 60000": png_claiming(60_000, 60_000),
        "png of 5001 x 5001": png_claiming(5_001, 5_001),
        "png of 100000 x 1": png_claiming(100_000, 1),
        "jpeg of 65000 x 65000": jpeg_claiming(65_000, 65_000),
        "webp of 16384 x 16384": webp_claiming(16_384, 16_384),
        "jpeg of many scans": jpeg_of_many_scans(),
        "png with a text bomb": png_with_text_bomb(),
        "more bytes than allowed": _encoded(image, "PNG") + bytes(8 * 2**20),
    }


def hostile_files(count: int, *, seed: int) -> Iterator[bytes]:
    """As many files as asked for; the same for the same seed. Few of them are more than some kilobytes."""
    random = np.random.default_rng(seed)
    good, refused = list(good_files().values()), list(refused_files().values())
    small_refused = [file for file in refused if len(file) < 2**16]
    large_refused = [file for file in refused if len(file) >= 2**16]
    for number in range(count):
        if number % 500 == 0:
            yield large_refused[number // 500 % len(large_refused)]
        elif number % 201 == 0:
            yield b""
        elif number % 25 == 0:
            yield small_refused[number // 25 % len(small_refused)]
        elif number % 10 == 0:
            yield good[number // 10 % len(good)]
        else:
            pool = good if random.random() < 0.8 else small_refused
            change = _MUTATIONS[random.integers(len(_MUTATIONS))]
            yield change(pool[random.integers(len(pool))], random)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header is right in itself, with hardly any pixels behind it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(4096))) + _chunk(b"IEND")
    )


def jpeg_claiming(width: int, height: int) -> bytes:
    """A JPEG whose frame header states another size than its data have."""
    data = bytearray(good_files()["jpeg"])
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_claiming(width: int, height: int) -> bytes:
    """An extended WebP whose canvas is as large as claimed."""
    image = good_files()["webp"][12:]
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(4) + size + image
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_of_many_scans() -> bytes:
    """A progressive JPEG that repeats a scan again and again."""
    data = good_files()["jpeg progressive"]
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * _MANY_SCANS + data[-2:]


def png_with_text_bomb() -> bytes:
    """A PNG with compressed comments that unpack to 200 MB in all."""
    data = good_files()["png"]
    comment = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(900_000)))
    return data[:33] + comment * 220 + data[33:]


def _truncated(data: bytes, random: np.random.Generator) -> bytes:
    return data[: random.integers(0, len(data))]


def _flipped(data: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(random.integers(1, 20)):
        changed[random.integers(len(changed))] = random.integers(256)
    return bytes(changed)


def _flipped_header(data: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(random.integers(1, 6)):
        changed[random.integers(min(64, len(changed)))] = random.integers(256)
    return bytes(changed)


def _cut_out(data: bytes, random: np.random.Generator) -> bytes:
    first, last = sorted(random.integers(0, len(data), 2))
    return data[:first] + data[last:]


def _doubled(data: bytes, random: np.random.Generator) -> bytes:
    first, last = sorted(random.integers(0, len(data), 2))
    return data[:last] + data[first:last] + data[last:]


def _stuffed(data: bytes, random: np.random.Generator) -> bytes:
    place = random.integers(len(data))
    return data[:place] + random.bytes(int(random.integers(1, 300))) + data[place:]


def _mislabelled(data: bytes, random: np.random.Generator) -> bytes:
    magic = (
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\x10\x00\x00\x00WEBPVP8 ",
        b"RIFF\xff\xff\xff\xffWEBPVP8X",
    )
    return magic[random.integers(len(magic))] + data[random.integers(20) :]


def _spliced(data: bytes, random: np.random.Generator) -> bytes:
    others = list(good_files_once())
    other = others[random.integers(len(others))]
    return data[: random.integers(len(data))] + other[random.integers(len(other)) :]


def _renumbered_png(_data: bytes, random: np.random.Generator) -> bytes:
    """Any header of a PNG, with a right checksum: sizes, bit depths, colour types and interlacing that do not exist."""
    width, height = (int(2 ** random.uniform(0, 20)) for _ in range(2))
    fields = (width, height, *(int(random.integers(0, 20)) for _ in range(5)))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", *fields)) + _chunk(b"IDAT", random.bytes(99))


def _junk(_data: bytes, random: np.random.Generator) -> bytes:
    return random.bytes(int(random.integers(0, 2000)))


_MUTATIONS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    _truncated, _flipped, _flipped, _flipped_header, _cut_out, _doubled, _stuffed, _mislabelled, _spliced,
    _renumbered_png, _junk,
)  # fmt: skip
_GOOD: list[bytes] = []


def good_files_once() -> list[bytes]:
    if not _GOOD:
        _GOOD.extend(good_files().values())
    return _GOOD


def _chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
