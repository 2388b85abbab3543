"""Train a small open_clip model on pictures and texts of one's own.

The loss is CLIP's, with two changes that a few hundred different texts call for. Pictures that share a text are
positives for each other, and a text that is true of a picture is never its negative ("hull" where the circle is named
"sailboat"): calling those wrong would teach the encoder noise. And texts that fit no picture at all join every batch as
negatives, so that words for things that are nowhere (an escalator) are known to be nowhere; they would mean anything.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor

from salf_training.backbone import load_fitting
from salf_training.encoder import normalise_pixels, quiet_open_clip
from salf_training.progress import Progress, silent
from salf_training.prompts import CircleSettings, circle_alphas, draw_circles
from salf_training.vocabulary import BASE_TOKENS, learn_merges, write_merges

MERGES_FILE = "bpe_merges.txt.gz"
WEIGHTS_FILE = "open_clip_model.safetensors"
_MEAN = _STD = (0.5, 0.5, 0.5)
_SAME_PX = 1e-3  # boxes are scaled in FP32
_NEVER = -1e4  # a logit without weight; where all are, minus infinity would have no gradient


class EncoderTraining(BaseModel):
    """Size and training of a small encoder; the defaults train in under ten minutes on two cores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tower: str = Field(default="test_resnet", description="timm name of the image tower")
    image_size: int = Field(default=112, description="pixels")
    embedding: int = Field(default=128, description="D")
    text_width: int = Field(default=128, gt=0, multiple_of=32)
    text_layers: int = 2
    context_length: int = Field(default=32, description="tokens")
    merges: int = 600
    epochs: int = Field(default=2, ge=1)
    batch_size: int = Field(default=128, ge=2)
    unfitting_texts: int = Field(default=24, ge=0, description="that fit no picture, in each batch")
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05


@dataclass(frozen=True)
class PromptedPictures:
    """Training samples: a picture, what to do with it, and the text that fits.

    Attributes:
        pixels: UINT8 [N,H,W,3], shared by many samples.
        picture: INT64 [S] index into `pixels`.
        box: FP32 [S,4] (top, left, bottom, right) in pixels, the crop to look at; the whole picture for most.
        centre: FP32 [S,2] (y, x) in pixels of a red circle; NaN for none.
        text: INT64 [S] index into `texts`.
        texts: the different texts; those of no sample are taken to fit no picture.
        true: BOOL [S,C], which of the first C texts are true of a sample, besides its own.
    """

    pixels: NDArray[np.uint8]
    picture: Tensor
    box: Tensor
    centre: Tensor
    text: Tensor
    texts: Sequence[str]
    true: Tensor


def train_encoder(
    samples: PromptedPictures,
    folder: Path,
    *,
    settings: EncoderTraining,
    circles: CircleSettings,
    vocabulary: Sequence[str],
    seed: int,
    tower_weights: Mapping[str, Tensor] | None = None,
    on_progress: Progress = silent,
) -> None:
    """Train and write a folder that open_clip itself loads as `local-dir:FOLDER`.

    Args:
        samples: what to learn from.
        folder: gets open_clip_config.json, open_clip_model.safetensors and the BPE merges.
        settings: size and schedule.
        circles: how the red circles look.
        vocabulary: texts that the merges are learnt from, `samples.texts` and the concepts at least.
        seed: of weights and order.
        tower_weights: state dict that the image tower starts from; None starts it from nothing.
        on_progress: told of every step.

    Raises:
        WeightsError: the tower's weights do not fit it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    merges = learn_merges(vocabulary, count=settings.merges)
    write_merges(folder / MERGES_FILE, merges)
    config = {
        "model_cfg": _model_config(settings, vocab_size=BASE_TOKENS + len(merges)),
        "preprocess_cfg": {"mean": _MEAN, "std": _STD, "resize_mode": "squash"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n")

    torch.manual_seed(seed)
    with quiet_open_clip():  # which would warn that the folder has no weights yet
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False).to(memory_format=torch.channels_last)
        tokenise = open_clip.get_tokenizer(f"local-dir:{folder}", bpe_path=str(folder / MERGES_FILE))
    if tower_weights is not None:
        load_fitting(model.visual.trunk, tower_weights, source="the tower's first weights")
    tokens = tokenise(list(samples.texts))
    optimiser = torch.optim.AdamW(_parameter_groups(model, settings.weight_decay), lr=settings.learning_rate)
    count = len(samples.picture)
    batch_size = min(settings.batch_size, count)
    steps = settings.epochs * (count // batch_size)
    # A warm-up of exactly one step would make OneCycleLR divide by zero.
    warm_up = min(0.6, max(0.1, 2 / steps))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=steps, pct_start=warm_up
    )
    order_from = torch.Generator().manual_seed(seed)
    unfitting = _texts_of_no_sample(samples)
    model.train()
    step = 0
    for _ in range(settings.epochs):
        order = torch.randperm(count, generator=order_from)
        for start in range(0, count - batch_size + 1, batch_size):
            chosen = order[start : start + batch_size]
            images = normalise_pixels(
                prompted_batch(samples, chosen, circles, size=settings.image_size),
                torch.tensor(_MEAN),
                torch.tensor(_STD),
            )
            some = torch.randperm(len(unfitting), generator=order_from)[: settings.unfitting_texts]
            different = torch.cat([samples.text[chosen].unique(), unfitting[some]])
            with torch.autocast("cpu", torch.bfloat16):
                image_features, text_features = model.encode_image(images), model.encode_text(tokens[different])
            # In bfloat16 a cosine is off by up to 0.004, which the scale of up to 100 would make 0.4.
            cosine = F.normalize(image_features.float(), dim=-1) @ F.normalize(text_features.float(), dim=-1).T
            similarity = model.logit_scale.exp() * cosine
            own = samples.text[chosen][:, None] == different
            loss = shared_text_loss(similarity, own, own | _also_true(samples, chosen, different))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, 4.6052)  # at most 100, as in CLIP
            step += 1
            on_progress("encoder", step, steps)
    # Weights that exist are whole: the folder counts as an encoder from then on.
    aside = folder / f"{WEIGHTS_FILE}.aside"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, aside)
    aside.replace(folder / WEIGHTS_FILE)


def prompted_batch(samples: PromptedPictures, chosen: Tensor, circles: CircleSettings, *, size: int) -> Tensor:
    """Cut, resize and circle the chosen samples: UINT8 [B,size,size,3]."""
    height, width = samples.pixels.shape[1:3]
    pixels = torch.from_numpy(samples.pixels[samples.picture[chosen].numpy()])
    circled = ~samples.centre[chosen, 0].isnan()
    alphas = circle_alphas(samples.centre[chosen][circled], circles, height=height, width=width)
    pixels[circled] = draw_circles(pixels[circled], alphas)
    box = samples.box[chosen]
    whole = torch.tensor([0.0, 0.0, height, width])
    cropped = ((box - whole).abs() > _SAME_PX).any(dim=1)
    if (height, width) != (size, size):
        return _crop(pixels, box, size=size)
    if cropped.any():
        pixels[cropped] = _crop(pixels[cropped], box[cropped], size=size)
    return pixels


def _crop(pixels: Tensor, box: Tensor, *, size: int) -> Tensor:
    """Cut a box out of each picture and resize it bilinearly to size x size."""
    height, width = pixels.shape[1:3]
    steps = (torch.arange(size) + 0.5) / size
    y = (box[:, 0, None] + steps * (box[:, 2] - box[:, 0])[:, None]) / height * 2 - 1
    x = (box[:, 1, None] + steps * (box[:, 3] - box[:, 1])[:, None]) / width * 2 - 1
    grid = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1)
    cut = F.grid_sample(pixels.permute(0, 3, 1, 2).float(), grid, padding_mode="border", align_corners=False)
    return cut.permute(0, 2, 3, 1).round().to(torch.uint8)


def _texts_of_no_sample(samples: PromptedPictures) -> Tensor:
    """INT64, indices into the texts."""
    used = torch.zeros(len(samples.texts), dtype=torch.bool)
    used[samples.text] = True
    used[: samples.true.shape[1]] |= samples.true.any(dim=0)
    return (~used).nonzero().flatten()


def _also_true(samples: PromptedPictures, chosen: Tensor, different: Tensor) -> Tensor:
    """BOOL [B,T]: which of T texts are true of the chosen samples, besides their own."""
    true = torch.zeros(len(chosen), len(different), dtype=torch.bool)
    known = different < samples.true.shape[1]
    true[:, known] = samples.true[chosen][:, different[known]]
    return true


def shared_text_loss(similarity: Tensor, own: Tensor, true: Tensor) -> Tensor:
    """CLIP's two-way loss over B pictures and T different texts; what is true counts for nothing but as one's own.

    Args:
        similarity: FP32 [B,T], scaled.
        own: BOOL [B,T], one text of each picture; a text may be of several pictures, or of none.
        true: BOOL [B,T], `own` and more.
    """
    wrong = similarity.masked_fill(true, _NEVER)
    # -log(e^s / (e^s + sum of e^wrong)) = softplus(log-sum of the wrong ones - s)
    to_text = F.softplus(wrong.logsumexp(dim=1, keepdim=True) - similarity)[own].mean()
    per_pair = F.softplus(wrong.logsumexp(dim=0, keepdim=True) - similarity) * own
    pictures_of = own.sum(dim=0)
    # Each text counts once, by the mean over its pictures.
    to_image = (per_pair.sum(dim=0) / pictures_of.clamp_min(1)).sum() / (pictures_of > 0).sum()
    return (to_text + to_image) / 2


def _parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels only."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    free = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def _model_config(settings: EncoderTraining, *, vocab_size: int) -> dict[str, object]:
    return {
        "embed_dim": settings.embedding,
        "vision_cfg": {
            "image_size": settings.image_size,
            "timm_model_name": settings.tower,
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
        },
        "text_cfg": {
            "context_length": settings.context_length,
            "vocab_size": vocab_size,
            "width": settings.text_width,
            "heads": settings.text_width // 32,
            "layers": settings.text_layers,
        },
    }
