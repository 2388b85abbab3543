"""The SALF-CBM model: frozen backbone, concept bottleneck, average or softmax pooling, sparse head.

Axis letters: B batch, H W picture, C features, h w concept map, M concepts, K classes.
Source: Benou & Riklin-Raviv, "Show and Tell", CVPR 2025 (arXiv 2502.20134), section 3; softmax pooling and the resizing
of features are in its authors' published checkpoint (github.com/itaybenou/show-and-tell).
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salf_training.errors import WeightsError

Pooling = Literal["average", "softmax"]


class Answer(NamedTuple):
    """What the model computes for a batch.

    features [B,C,h',w'] as the backbone gives them, maps [B,M,h,w] raw c(x), scores [B,M] z, logits [B,K]; all FP32.
    """

    features: Tensor
    maps: Tensor
    scores: Tensor
    logits: Tensor


class SalfModel(nn.Module):
    """A SALF-CBM. Everything after the backbone is held in buffers, saved with the state dict.

    Args:
        backbone: gives features FP32 [B,C,h',w'] for normalised pictures FP32 [B,3,H,W].
        channels: C.
        concepts: M.
        classes: K.
        pooling: how a map becomes one number, see `pool_maps`.
        map_size: (h, w) that features are resized to before the bottleneck; None leaves them as they are.
    """

    pixel_mean: Tensor  # [3], of pixels in 0..1
    pixel_std: Tensor  # [3]
    concept_weight: Tensor  # [M,C] the 1x1 convolution W_c
    concept_bias: Tensor  # [M]
    score_mean: Tensor  # [M] of pooled maps over the training pictures
    score_std: Tensor  # [M]
    head_weight: Tensor  # [K,M] sparse W_g
    head_bias: Tensor  # [K]
    classifier_weight: Tensor  # [K,C] the backbone's own classifier on pooled features, for comparison
    classifier_bias: Tensor  # [K]

    def __init__(
        self,
        backbone: nn.Module,
        *,
        channels: int,
        concepts: int,
        classes: int,
        pooling: Pooling = "average",
        map_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.map_size = map_size
        shapes = {
            "pixel_mean": (3,),
            "pixel_std": (3,),
            "concept_weight": (concepts, channels),
            "concept_bias": (concepts,),
            "score_mean": (concepts,),
            "score_std": (concepts,),
            "head_weight": (classes, concepts),
            "head_bias": (classes,),
            "classifier_weight": (classes, channels),
            "classifier_bias": (classes,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.ones(shape) if name.endswith("std") else torch.zeros(shape))

    def normalise(self, pixels: Tensor) -> Tensor:
        """UINT8 [B,H,W,3] RGB 0..255 -> FP32 [B,3,H,W], normalised."""
        # One multiply-add per pixel; the division by 255 is folded in.
        scale = 1.0 / (255.0 * self.pixel_std)
        shift = -self.pixel_mean / self.pixel_std
        return pixels.permute(0, 3, 1, 2).to(scale.dtype) * scale[:, None, None] + shift[:, None, None]

    def features(self, pixels: Tensor) -> Tensor:
        """UINT8 [B,H,W,3] -> FP32 [B,C,h',w']."""
        features: Tensor = self.backbone(self.normalise(pixels))
        return features

    def concept_maps(self, features: Tensor) -> Tensor:
        """FP32 [B,C,h',w'] -> raw concept maps c(x) FP32 [B,M,h,w]."""
        resized = features if self.map_size is None else resize_maps(features, self.map_size)
        return F.conv2d(resized, self.concept_weight[:, :, None, None], self.concept_bias)

    def scores(self, maps: Tensor) -> Tensor:
        """FP32 [B,M,h,w] -> z FP32 [B,M]: pooled, minus the training mean, over the training std."""
        return (pool_maps(maps, self.pooling) - self.score_mean) / self.score_std

    def logits(self, scores: Tensor) -> Tensor:
        """Scores z FP32 [B,M] -> FP32 [B,K]."""
        return F.linear(scores, self.head_weight, self.head_bias)

    def contributions(self, scores: Tensor, target: Tensor) -> Tensor:
        """W_g[target] * z: FP32 [B,M] that sum, with the bias, to the target's logit. `target` INT64 [B]."""
        return self.head_weight[target] * scores

    def from_features(self, features: Tensor) -> Answer:
        """FP32 [B,C,h',w'] -> everything after the backbone."""
        maps = self.concept_maps(features)
        scores = self.scores(maps)
        return Answer(features, maps, scores, self.logits(scores))

    def forward(self, pixels: Tensor) -> Answer:
        """UINT8 [B,H,W,3] -> everything."""
        return self.from_features(self.features(pixels))

    def classify(self, features: Tensor) -> Tensor:
        """The backbone's own classifier: FP32 [B,C,h',w'] -> logits FP32 [B,K]."""
        return F.linear(features.mean(dim=(2, 3)), self.classifier_weight, self.classifier_bias)


class FeaturesBackbone(nn.Module):
    """Stands where a backbone would, for models that start from features: published cases and tests.

    Args:
        channels: C of the features that the model is asked about.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, features: Tensor) -> Tensor:
        """FP32 [B,C,h',w'] -> the same.

        Raises:
            WeightsError: another number of channels; a picture has 3.
        """
        if features.ndim != 4 or features.shape[1] != self.channels:
            raise WeightsError(
                f"this model has no backbone: it expects features [batch, {self.channels}, rows, columns] and got "
                f"{tuple(features.shape)}; call from_features, or import it again with a real backbone"
            )
        return features


def pool_maps(maps: Tensor, pooling: Pooling) -> Tensor:
    """Bring each map to one number.

    Args:
        maps: [B,M,h,w].
        pooling: "average"; or "softmax": the map averaged with its own spatial softmax as weights, which lies between
            the average and the maximum.

    Returns:
        [B,M], in the maps' unit.
    """
    if pooling == "average":
        return maps.mean(dim=(2, 3))
    flat = maps.flatten(2)
    return (flat.softmax(dim=2) * flat).sum(dim=2)


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """[B,C,h',w'] -> [B,C,h,w]: bilinear, pixel centres aligned (align_corners=False), no antialiasing."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False, antialias=False)
