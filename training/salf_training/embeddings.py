"""The local-similarity stage: embed every picture once per cell of the prompt grid, and cache the embeddings.

Embeddings are cached, never similarities: at ImageNet's size those are 595 GB, and one matrix product away.
Source: SALF-CBM, section 3.1.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from salf_contract import Preparation
from salf_training.encoder import Encoder, device_of
from salf_training.errors import DataError, SettingsError
from salf_training.image_folder import batches_of_pixels
from salf_training.progress import Progress, silent
from salf_training.prompts import PromptSettings, prompted, source_size
from salf_training.resumable_table import filled_table

_STAGE = "similarities"
_MOST_DECODERS = 16


def cached_prompt_embeddings(
    cache: Path,
    paths: Sequence[Path],
    encoder: Encoder | Sequence[Encoder],
    circles: PromptSettings,
    *,
    preparation: Preparation,
    batch_size: int = 8,
    sync_every_s: float = 2.0,
    on_progress: Progress = silent,
) -> NDArray[np.float16]:
    """Embed N pictures with a visual prompt at each of G grid cells, or take them from the cache.

    A run that was interrupted, or killed, goes on where it stopped and gives the same bytes. Memory does not grow with
    N. A picture counts as the same while its path, size and time of change are: that is what make, rsync and git's
    index go by; hashing the contents would read a whole data set (ImageNet: 150 GB) before each run. What the
    cache itself holds is checked against its checksum each time it is opened.

    Args:
        cache: folder for all caches; this one's name holds a hash of everything that the embeddings depend on.
        paths: N pictures.
        encoder: what embeds them; or several equal ones on different devices, which take turns in batches.
        circles: kind of prompt and grid.
        preparation: the model's own: prompts must lie over the part of the picture that its features cover.
        batch_size: pictures (not prompted copies) per step; a run that goes on with another one may differ in the
            last bit of a few values, as encoders compute a little differently for it.
        sync_every_s: seconds of work that a kill may cost.
        on_progress: told after every step, and of what is already there when a run goes on.

    Returns:
        Read-only, memory-mapped FP16 [N,G,D]; rows of unit length; cells row by row.

    Raises:
        DataError: there are no pictures, one is missing or broken, or the cache is damaged or in use.
        SettingsError: the encoders are not equal.
    """
    if not paths:
        raise DataError("there are no pictures to compute similarities on")
    encoders = _equal_encoders(encoder)
    height, width = encoders[0].image_size
    source_height, source_width = source_size(circles, height=height, width=width)
    covering = _covering(preparation, height=source_height, width=source_width)

    def embed(one: Encoder, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        on_device = torch.from_numpy(pixels).to(device_of(one))
        squashed = _squash(on_device, height=source_height, width=source_width)
        return _embed(one, prompted(squashed, circles, height=height, width=width))

    def batches(start: int) -> Iterator[NDArray[np.float16]]:
        decoders = min(os.cpu_count() or 1, _MOST_DECODERS)
        pixels = batches_of_pixels(paths[start:], covering, batch_size=batch_size, threads=decoders)
        if len(encoders) == 1:
            return (embed(encoders[0], batch) for batch in pixels)
        return _taking_turns(encoders, pixels, embed)

    return filled_table(
        cache / f"embeddings-{_cache_key(paths, encoders[0].fingerprint, circles, covering)}",
        batches,
        rows=len(paths),
        on_rows=lambda done: on_progress(_STAGE, done, len(paths)),
        sync_every_s=sync_every_s,
    )


def local_similarities(embeddings: NDArray[np.float16], texts: Tensor) -> Tensor:
    """P[n,m,g] = cosine of picture n, prompted at cell g, and concept m.

    Args:
        embeddings: FP16 [N,G,D] of unit length; rows of the cache, e.g. `cached[[3, 8, 11]]` for three pictures.
        texts: FP32 [M,D] of unit length, on the device that is to compute.

    Returns:
        FP32 [N,M,G] on that device, -1..1. 4 bytes each: for many pictures use `iter_local_similarities`.
    """
    on_device = torch.from_numpy(np.array(embeddings)).to(texts.device).float()
    return torch.einsum("ngd,md->nmg", on_device, texts)


def iter_local_similarities(
    embeddings: NDArray[np.float16], texts: Tensor, *, pictures: int = 256
) -> Iterator[tuple[slice, Tensor]]:
    """The similarities of many pictures, some at a time, in order.

    Args:
        embeddings: FP16 [N,G,D] of unit length, memory-mapped for large N.
        texts: FP32 [M,D] of unit length, on the device that is to compute.
        pictures: b, how many at a time.

    Yields:
        The pictures' slice of 0..N, and their similarities FP32 [b,M,G].
    """
    for start in range(0, len(embeddings), pictures):
        chosen = slice(start, min(start + pictures, len(embeddings)))
        yield chosen, local_similarities(embeddings[chosen], texts)


class LocalSimilarities:
    """P[n,m,g] of many pictures, computed where it is asked for: 4 bytes x M x G a picture would not fit in memory.

    Attributes:
        shape: (N, M, G).
    """

    def __init__(self, embeddings: NDArray[np.float16], texts: Tensor) -> None:
        """As for `local_similarities`; embeddings may be memory-mapped."""
        self.shape = (len(embeddings), len(texts), embeddings.shape[1])
        self._embeddings, self._texts = embeddings, texts

    def __getitem__(self, pictures: Tensor) -> Tensor:
        """INT64 [B], any order -> FP32 [B,M,G]."""
        return local_similarities(self._embeddings[pictures.numpy()], self._texts)


def _equal_encoders(encoder: Encoder | Sequence[Encoder]) -> Sequence[Encoder]:
    encoders: Sequence[Encoder] = encoder if isinstance(encoder, Sequence) else [encoder]
    if len({(one.fingerprint, tuple(one.image_size)) for one in encoders}) != 1:
        raise SettingsError(
            f"{len(encoders)} encoders were given for one cache; expected one or more, with equal weights and settings"
        )
    return encoders


def _embed(encoder: Encoder, pictures: Tensor) -> NDArray[np.float16]:
    """UINT8 [B,G,H,W,3] -> FP16 [B,G,D]."""
    flat = encoder.embed_images(pictures.flatten(0, 1))
    embedded: NDArray[np.float16] = flat.unflatten(0, pictures.shape[:2]).to(torch.float16).cpu().numpy()
    return embedded


def _taking_turns(
    encoders: Sequence[Encoder],
    batches: Iterator[NDArray[np.uint8]],
    embed: Callable[[Encoder, NDArray[np.uint8]], NDArray[np.float16]],
) -> Iterator[NDArray[np.float16]]:
    """Embeddings in the order of the batches, one thread for each encoder.

    Each has one batch at a time, and a batch is never divided: neither memory nor bits depend on how many there are.
    """
    with ThreadPoolExecutor(len(encoders)) as pool:
        waiting: deque[Future[NDArray[np.float16]]] = deque()
        for index, batch in enumerate(batches):
            if len(waiting) == len(encoders):
                yield waiting.popleft().result()
            waiting.append(pool.submit(embed, encoders[index % len(encoders)], batch))
        while waiting:
            yield waiting.popleft().result()


def _covering(preparation: Preparation, *, height: int, width: int) -> Preparation:
    """The same part of the picture, at the smallest size of the same shape that covers height x width."""
    scale = max(height / preparation.height, width / preparation.width)
    size = {"height": round(preparation.height * scale), "width": round(preparation.width * scale)}
    return preparation.model_copy(update=size)


def _squash(pixels: Tensor, *, height: int, width: int) -> Tensor:
    """Resize to the encoder's size if the model's pictures have another shape: UINT8 [B,height,width,3]."""
    if tuple(pixels.shape[1:3]) == (height, width):
        return pixels
    resized = F.interpolate(pixels.permute(0, 3, 1, 2).float(), (height, width), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8)


def _cache_key(paths: Sequence[Path], fingerprint: str, circles: PromptSettings, preparation: Preparation) -> str:
    digest = hashlib.sha256(f"{fingerprint}|{circles.model_dump_json()}|{preparation.model_dump_json()}".encode())
    for path in paths:
        status = path.stat() if path.exists() else None
        size, changed = (status.st_size, status.st_mtime_ns) if status else (0, 0)
        digest.update(f"\n{path.resolve()}|{size}|{changed}".encode())
    return digest.hexdigest()[:24]
