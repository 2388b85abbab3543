"""The local-similarity stage: embed every picture once per cell of the prompt grid, and cache the embeddings.

Embeddings are cached, never similarities: at ImageNet's size those are 595 GB, and one matrix product away.
Source: SALF-CBM, section 3.1.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from salf_contract import Preparation
from salf_training.encoder import Encoder
from salf_training.image_folder import batches_of_pixels
from salf_training.progress import Progress, silent
from salf_training.prompts import CircleSettings, circle_alphas, draw_circles, grid_centres

#: Of a concept's similarities, those that say whether it is in the pictures at all.
_STRONGEST_SHARE = 0.002
_EMBEDDINGS, _DONE = "embeddings.npy", "done.json"


def cached_prompt_embeddings(
    cache: Path,
    paths: Sequence[Path],
    encoder: Encoder,
    circles: CircleSettings,
    *,
    preparation: Preparation,
    batch_size: int = 8,
    on_progress: Progress = silent,
) -> NDArray[np.float16]:
    """Embed N pictures with a red circle at each of G grid cells, or take them from the cache.

    An interrupted run goes on where it stopped.

    Args:
        cache: folder for all caches; this one's name holds a hash of everything that the embeddings depend on.
        paths: N pictures.
        encoder: what embeds them.
        circles: the grid.
        preparation: the model's own: circles must lie over the part of the picture that its features cover.
        batch_size: pictures (not circled copies) per step.
        on_progress: told after every step.

    Returns:
        Read-only, memory-mapped FP16 [N,G,D]; rows of unit length; cells row by row.

    Raises:
        DataError: a picture is missing or broken.
    """
    height, width = encoder.image_size
    covering = _covering(preparation, height=height, width=width)
    folder = cache / f"embeddings-{_cache_key(paths, encoder.fingerprint, circles, covering)}"
    folder.mkdir(parents=True, exist_ok=True)
    done = _pictures_done(folder)
    alphas = circle_alphas(grid_centres(circles, height=height, width=width), circles, height=height, width=width)
    table: np.memmap[tuple[int, ...], np.dtype[np.float16]] | None = None
    if done:
        table = np.lib.format.open_memmap(folder / _EMBEDDINGS, "r+")
    for pixels in batches_of_pixels(paths[done:], covering, batch_size=batch_size):
        squashed = _squash(torch.from_numpy(pixels), height=height, width=width)
        embedded = _embed(encoder, squashed, alphas)
        if table is None:
            shape = (len(paths), *embedded.shape[1:])
            table = np.lib.format.open_memmap(folder / _EMBEDDINGS, "w+", np.float16, shape)
        table[done : done + len(pixels)] = embedded.numpy().astype(np.float16)
        table.flush()  # on disk before it counts as done
        done += len(pixels)
        _note_done(folder, done)
        on_progress("similarities", done, len(paths))
    return np.lib.format.open_memmap(folder / _EMBEDDINGS, "r")


def local_similarities(embeddings: NDArray[np.float16], texts: Tensor) -> Tensor:
    """P[n,m,g] = cosine of picture n, circled at cell g, and concept m.

    Args:
        embeddings: FP16 [N,G,D] of unit length.
        texts: FP32 [M,D] of unit length.

    Returns:
        FP32 [N,M,G], -1..1.
    """
    return torch.einsum("ngd,md->nmg", torch.from_numpy(np.array(embeddings)).float(), texts)


def presence(similarities: Tensor) -> Tensor:
    """How strongly each concept shows where it shows most: the mean of its top 0.2 % of similarities.

    Args:
        similarities: FP32 [N,M,G].

    Returns:
        FP32 [M], -1..1. (Label-free CBM filters by the top 5 of all pictures; a share does not depend on their number.)
    """
    per_concept = similarities.transpose(0, 1).flatten(1)
    count = max(1, round(_STRONGEST_SHARE * per_concept.shape[1]))
    return per_concept.topk(count, dim=1).values.mean(dim=1)


def _embed(encoder: Encoder, pixels: Tensor, alphas: Tensor) -> Tensor:
    """UINT8 [B,H,W,3] and FP32 [G,H,W] -> FP32 [B,G,D]."""
    circled = draw_circles(pixels[:, None], alphas[None])  # [B,G,H,W,3]
    flat = encoder.embed_images(circled.flatten(0, 1))
    return flat.reshape(len(pixels), len(alphas), -1)


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


def _cache_key(paths: Sequence[Path], fingerprint: str, circles: CircleSettings, preparation: Preparation) -> str:
    digest = hashlib.sha256(f"{fingerprint}|{circles.model_dump_json()}|{preparation.model_dump_json()}".encode())
    for path in paths:
        status = path.stat() if path.exists() else None
        size, changed = (status.st_size, status.st_mtime_ns) if status else (0, 0)
        digest.update(f"\n{path.resolve()}|{size}|{changed}".encode())
    return digest.hexdigest()[:24]


def _pictures_done(folder: Path) -> int:
    note = folder / _DONE
    return int(json.loads(note.read_text())["pictures"]) if note.is_file() and (folder / _EMBEDDINGS).is_file() else 0


def _note_done(folder: Path, pictures: int) -> None:
    aside = folder / f"{_DONE}.aside"
    aside.write_text(json.dumps({"pictures": pictures}))
    aside.replace(folder / _DONE)
