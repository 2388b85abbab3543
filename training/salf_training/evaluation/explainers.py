"""Class heatmaps of one batch by several methods: the model's own, and post-hoc ones on the same backbone (captum)."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from captum.attr import IntegratedGradients, LayerGradCam
from numpy.typing import NDArray
from torch import Tensor, nn

from salf_training.model import SalfModel

EVIDENCE, EXACT, PAPER = "SALF-CBM", "SALF-CBM, exact sum", "SALF-CBM, paper's sum"
GRAD_CAM, GRAD_CAM_CUBED, INTEGRATED, CENTRE = "Grad-CAM", "Grad-CAM, cubed", "Integrated gradients", "Centre"
#: What explains the backbone's own classifier.
POST_HOC = (GRAD_CAM, INTEGRATED)

#: (pixels UINT8 [B,H,W,3], targets INT64 [B]) -> FP32 [B,h,w], any size; larger means more evidence for the target.
Explainer = Callable[[Tensor, Tensor], NDArray[np.float32]]


class OwnClassifier(nn.Module):
    """The backbone with its own classifier: FP32 [B,3,H,W], normalised -> logits [B,K]."""

    def __init__(self, model: SalfModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """FP32 [B,3,H,W] -> logits FP32 [B,K]."""
        return self.model.classify(self.model.backbone(images))


def explainers(model: SalfModel, *, steps: int) -> dict[str, Explainer]:
    """Every method by name.

    Post-hoc methods explain the backbone's own classifier, where it has one.

    Args:
        model: in evaluation mode.
        steps: of integrated gradients.
    """
    found: dict[str, Explainer] = {
        EVIDENCE: lambda pixels, targets: _evidence(model, pixels, targets),
        EXACT: lambda pixels, targets: _exact(model, pixels, targets),
        PAPER: lambda pixels, targets: _papers_sum(model, pixels, targets),
        CENTRE: _centre,
    }
    if bool(model.classifier_weight.any()):
        found[GRAD_CAM] = lambda pixels, targets: _grad_cam(model, pixels, targets)
        found[INTEGRATED] = lambda pixels, targets: _integrated(model, pixels, targets, steps)
    return found


def sharpened(methods: Mapping[str, Explainer]) -> dict[str, Explainer]:
    """Grad-CAM, cubed, where Grad-CAM is: the pixels keep their order, so it tells what sharpness alone does."""
    if GRAD_CAM not in methods:
        return {}
    return {GRAD_CAM_CUBED: lambda pixels, targets: methods[GRAD_CAM](pixels, targets) ** 3}


@torch.no_grad()
def _evidence(model: SalfModel, pixels: Tensor, targets: Tensor) -> NDArray[np.float32]:
    """What speaks for the class, cubed as in the bottleneck's loss: `operations.evidence_maps`."""
    maps = model.concept_maps(model.features(pixels))
    cubes = ((maps - model.score_mean[:, None, None]) / model.score_std[:, None, None]) ** 3
    return np.asarray(torch.einsum("bm,bmhw->bhw", model.head_weight[targets], cubes).clamp(min=0).numpy())


@torch.no_grad()
def _exact(model: SalfModel, pixels: Tensor, targets: Tensor) -> NDArray[np.float32]:
    """sum_m W[k,m] (c_m - mean_m) / std_m: under average pooling its mean plus the bias is the logit."""
    maps = model.concept_maps(model.features(pixels))
    factor = model.head_weight[targets] / model.score_std
    shift = (factor * model.score_mean).sum(dim=1)
    return np.asarray((torch.einsum("bm,bmhw->bhw", factor, maps) - shift[:, None, None]).numpy())


@torch.no_grad()
def _papers_sum(model: SalfModel, pixels: Tensor, targets: Tensor) -> NDArray[np.float32]:
    """Raw maps weighted by their contributions to the target."""
    maps = model.concept_maps(model.features(pixels))
    contributions = model.contributions(model.scores(maps), targets)
    return np.asarray(torch.einsum("bm,bmhw->bhw", contributions, maps).numpy())


def _grad_cam(model: SalfModel, pixels: Tensor, targets: Tensor) -> NDArray[np.float32]:
    """Selvaraju et al., ICCV 2017, on the features before pooling, negative evidence cut off."""
    images = model.normalise(pixels).requires_grad_()
    with torch.enable_grad():
        maps = LayerGradCam(OwnClassifier(model), model.backbone).attribute(
            images, target=targets, relu_attributions=True
        )
    return np.asarray(maps[:, 0].detach().numpy())


def _integrated(model: SalfModel, pixels: Tensor, targets: Tensor, steps: int) -> NDArray[np.float32]:
    """Sundararajan et al., ICML 2017, from the mean colour; absolute values summed over colours."""
    images = model.normalise(pixels)
    with torch.enable_grad():
        found = IntegratedGradients(OwnClassifier(model)).attribute(
            images, target=targets, n_steps=steps, internal_batch_size=64
        )
    return np.asarray(found.abs().sum(dim=1).detach().float().numpy())


def _centre(pixels: Tensor, targets: Tensor) -> NDArray[np.float32]:
    """Baseline without a model: nearer to the centre is more."""
    height, width = pixels.shape[1:3]
    y, x = np.mgrid[:height, :width]
    distance = np.hypot((y + 0.5) / height - 0.5, (x + 0.5) / width - 0.5)
    return np.broadcast_to(-distance.astype(np.float32), (len(targets), height, width))
