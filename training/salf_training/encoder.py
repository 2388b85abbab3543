"""Image-text encoders: whatever can embed pictures and phrases into one space."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import open_clip
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from salf_training.checkpoint import file_sha256
from salf_training.errors import WeightsError


class Encoder(Protocol):
    """Embeds pictures and phrases so that their cosine says how well they fit.

    Attributes:
        image_size: (H, W) of the pictures it takes.
        fingerprint: changes whenever its embeddings would; part of every cache key.
    """

    image_size: tuple[int, int]
    fingerprint: str

    def embed_images(self, pixels: Tensor) -> Tensor:
        """UINT8 [B,H,W,3] RGB at `image_size` -> FP32 [B,D], of unit length."""

    def embed_texts(self, phrases: Sequence[str]) -> Tensor:
        """T phrases -> FP32 [T,D], of unit length."""


class EncoderSettings(BaseModel):
    """Which open_clip model embeds pictures and phrases."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="open_clip name, 'local-dir:FOLDER' or 'hf-hub:OWNER/NAME'")
    weights: str | None = Field(default=None, description="open_clip tag or a local file; None: what the model names")
    merges: Path | None = Field(default=None, description="BPE merges (.txt.gz) of a model with its own vocabulary")
    templates: tuple[str, ...] = Field(default=("{}",), min_length=1, description="averaged; {} is the concept")


class OpenClipEncoder:
    """An open_clip model as an `Encoder`, on the CPU in bfloat16 where that is faster."""

    def __init__(self, settings: EncoderSettings, *, bfloat16: bool = True) -> None:
        own_vocabulary = {"bpe_path": str(settings.merges)} if settings.merges else {}
        try:
            with quiet_open_clip():
                model = open_clip.create_model(settings.model, pretrained=settings.weights, require_pretrained=True)
                self._tokenise = open_clip.get_tokenizer(settings.model, **own_vocabulary)
        # Broken weights fail in any way (see weights.py), an unknown name with RuntimeError.
        except Exception as error:
            raise WeightsError(
                f"open_clip cannot load the encoder {settings.model!r} with weights {settings.weights!r}: {error}"
            ) from error
        self.model = model.eval().to(memory_format=torch.channels_last)
        size = model.visual.image_size
        self.image_size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        visual = model.visual.preprocess_cfg
        self._mean, self._std = torch.tensor(visual["mean"]), torch.tensor(visual["std"])
        self._templates = settings.templates
        self._bfloat16 = bfloat16
        self.fingerprint = _fingerprint(settings, bfloat16=bfloat16)

    @torch.inference_mode()
    def embed_images(self, pixels: Tensor) -> Tensor:
        """UINT8 [B,H,W,3] RGB at `image_size` -> FP32 [B,D], of unit length."""
        images = normalise_pixels(pixels, self._mean, self._std)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            embedded = self.model.encode_image(images)
        return F.normalize(embedded.float(), dim=-1)

    @torch.inference_mode()
    def embed_texts(self, phrases: Sequence[str]) -> Tensor:
        """T phrases -> FP32 [T,D], of unit length: the mean over the text templates."""
        per_template = [
            F.normalize(self.model.encode_text(self._tokenise([template.format(p) for p in phrases])).float(), dim=-1)
            for template in self._templates
        ]
        return F.normalize(torch.stack(per_template).mean(dim=0), dim=-1)


@contextmanager
def quiet_open_clip() -> Iterator[None]:
    """open_clip reports every step of loading on the root logger; its errors are exceptions all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def normalise_pixels(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """UINT8 [B,H,W,3] 0..255 -> FP32 [B,3,H,W] in channels-last memory; mean and std are [3], of pixels in 0..1."""
    return pixels.permute(0, 3, 1, 2).float() * (1 / (255 * std))[:, None, None] - (mean / std)[:, None, None]


def _fingerprint(settings: EncoderSettings, *, bfloat16: bool) -> str:
    """Settings, precision, and the hash of every local file that decides embeddings: configuration, weights, merges."""
    folder = Path(settings.model.removeprefix("local-dir:"))
    files = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    files += [Path(file) for file in (settings.weights, settings.merges) if file and Path(file).is_file()]
    precision = "bfloat16" if bfloat16 else "float32"
    return "|".join([settings.model_dump_json(), precision, *(file_sha256(file) for file in files)])
