"""Image-text encoders: whatever can embed pictures and phrases into one space."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import open_clip
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, field_validator
from torch import Tensor

from salf_training.checkpoint import file_sha256
from salf_training.errors import WeightsError

Precision = Literal["float32", "bfloat16", "float16"]
_Colour = tuple[float, float, float]


@runtime_checkable
class Encoder(Protocol):
    """Embeds pictures and phrases so that their cosine says how well they fit.

    One that computes on a GPU also has an attribute `device`, and is then given pictures that lie there.

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
    """What embeds pictures and phrases: an open_clip model, or one's own encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        description="open_clip name, 'local-dir:FOLDER', 'hf-hub:OWNER/NAME', or 'package.module:function', a factory "
        "of an Encoder"
    )
    weights: str | None = Field(default=None, description="open_clip tag or a local file; None: what the model names")
    merges: Path | None = Field(default=None, description="BPE merges (.txt.gz) of a model with its own vocabulary")
    templates: tuple[str, ...] = Field(default=("{}",), min_length=1, description="averaged; {} is the concept")
    options: dict[str, int | float | bool | str] = Field(
        default_factory=dict, description="keyword arguments of open_clip.create_model or of the factory"
    )
    pixel_mean: _Colour | None = Field(default=None, description="of pixels in 0..1; None: what the model names")
    pixel_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    devices: tuple[str, ...] = Field(
        default=("auto",),
        min_length=1,
        description="'cpu', 'cuda:1', ...; 'cuda': all GPUs; 'auto': all GPUs, or the CPU if there are none",
    )
    precision: Precision | None = Field(default=None, description="None: float16 on a GPU, bfloat16 on the CPU")
    batch_size: int = Field(default=512, ge=1, description="pictures or phrases at a time")

    @field_validator("templates")
    @classmethod
    def _have_a_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{}") != 1 or template.replace("{}", "").count("{"):
                raise ValueError(f"the template {template!r} must hold {{}} once, where the concept goes")
        return templates


class OpenClipEncoder:
    """An open_clip model as an `Encoder`, in half precision."""

    def __init__(self, settings: EncoderSettings, *, bfloat16: bool = True, device: str = "cpu") -> None:
        own_vocabulary = {"bpe_path": str(settings.merges)} if settings.merges else {}
        try:
            with quiet_open_clip():  # the tokeniser first: it fails before gigabytes of weights are read
                self._tokenise = open_clip.get_tokenizer(settings.model, **own_vocabulary)
                model = open_clip.create_model(
                    settings.model, pretrained=settings.weights, require_pretrained=True, **settings.options
                )
        except ModuleNotFoundError as error:
            raise WeightsError(
                f"the encoder {settings.model!r} needs {error.name}, which is not installed: "
                "pip install 'salf[tokenizers]'"
            ) from error
        # Broken weights fail in any way (see weights.py), an unknown name with RuntimeError.
        except Exception as error:
            raise WeightsError(
                f"open_clip cannot load the encoder {settings.model!r} with weights {settings.weights!r}: {error}"
            ) from error
        self.device = torch.device(device)
        self.model = model.eval().to(self.device, memory_format=torch.channels_last)
        size = model.visual.image_size
        self.image_size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        mean, std = pixel_statistics(settings, model.visual.preprocess_cfg)
        self._mean, self._std = torch.tensor(mean, device=self.device), torch.tensor(std, device=self.device)
        self._templates, self._batch_size = settings.templates, settings.batch_size
        on_cpu: Precision = "bfloat16" if bfloat16 else "float32"
        precision = settings.precision or (on_cpu if self.device.type == "cpu" else "float16")
        self._autocast = None if precision == "float32" else getattr(torch, precision)
        self.fingerprint = "|".join([_fingerprint(settings, precision), repr((mean, std))])

    @torch.inference_mode()
    def embed_images(self, pixels: Tensor) -> Tensor:
        """UINT8 [B,H,W,3] RGB at `image_size` -> FP32 [B,D], of unit length, on the encoder's device."""
        embedded = []
        for some in pixels.split(self._batch_size):
            images = normalise_pixels(some.to(self.device), self._mean, self._std)
            with torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None):
                embedded.append(self.model.encode_image(images))
        return F.normalize(torch.cat(embedded).float(), dim=-1)

    @torch.inference_mode()
    def embed_texts(self, phrases: Sequence[str]) -> Tensor:
        """T phrases -> FP32 [T,D], of unit length: the mean over the text templates. In float32, on the CPU."""
        per_template = []
        for template in self._templates:
            tokens = self._tokenise([template.replace("{}", phrase) for phrase in phrases])
            embedded = [self.model.encode_text(some.to(self.device)) for some in tokens.split(self._batch_size)]
            per_template.append(F.normalize(torch.cat(embedded).float(), dim=-1))
        return F.normalize(torch.stack(per_template).mean(dim=0), dim=-1).cpu()


def device_of(encoder: Encoder) -> torch.device:
    """Where an encoder takes its pictures; the CPU if it does not say."""
    device: torch.device = getattr(encoder, "device", torch.device("cpu"))
    return device


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


def pixel_statistics(settings: EncoderSettings, built: dict[str, Any]) -> tuple[_Colour, _Colour]:
    """Mean and std of pixels: the settings', else those that the weights were published with.

    open_clip takes CLIP's own for any local file, which is wrong for SigLIP, MobileCLIP and others.

    Raises:
        WeightsError: the model was published with several, and the settings do not say which.
    """
    found: tuple[_Colour, _Colour] = (tuple(built["mean"]), tuple(built["std"]))
    if settings.pixel_mean is not None and settings.pixel_std is not None:
        return settings.pixel_mean, settings.pixel_std
    if settings.pixel_mean is not None or settings.pixel_std is not None:
        raise WeightsError(f"for the encoder {settings.model!r} give both pixel_mean and pixel_std, or neither")
    name = settings.model.replace("/", "-")
    tags = open_clip.pretrained.list_pretrained_tags_by_model(name)
    if not tags or settings.weights is None or open_clip.pretrained.is_pretrained_cfg(name, settings.weights):
        return found
    published: dict[tuple[_Colour, _Colour], str] = {}
    for tag in tags:
        config = open_clip.pretrained.get_pretrained_cfg(name, tag)
        published.setdefault((tuple(config["mean"]), tuple(config["std"])), tag)
    if len(published) > 1:
        choices = "; ".join(f"{mean} and {std} (as {tag!r})" for (mean, std), tag in published.items())
        raise WeightsError(
            f"the encoder {settings.model!r} was published with several pixel_mean and pixel_std: {choices}; give "
            f"those of {settings.weights}"
        )
    return next(iter(published))


def _fingerprint(settings: EncoderSettings, precision: Precision) -> str:
    """Settings, precision, and the hash of every local file that decides embeddings: configuration, weights, merges."""
    folder = Path(settings.model.removeprefix("local-dir:"))
    files = sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []
    files += [Path(file) for file in (settings.weights, settings.merges) if file and Path(file).is_file()]
    chosen = settings.model_dump_json(include={"model", "weights", "merges", "templates", "options"})
    return "|".join([chosen, precision, *(file_sha256(file) for file in files)])
