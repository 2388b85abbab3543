"""Are a model's reasons named rightly? On Scenes, where everything drawn has a name and a place."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from salf_training.checkpoint import Checkpoint, Naming
from salf_training.localisation import pointing_cases, pointing_hits
from salf_training.scenes import MASKED_CONCEPTS, SceneRecord, read_masks


@torch.inference_mode()
def naming_on_scenes(checkpoint: Checkpoint, records: Sequence[SceneRecord], maps: Tensor) -> Naming:
    """Compare what each contribution claims with what is in the picture.

    A concept with z > 0 claims to be present, any other to be absent. Small things count: a door knob of eight pixels
    is visible. Contributions are to the predicted class, for and against it.

    Args:
        checkpoint: the model.
        records: N held-out scenes.
        maps: FP32 [N,M,h,w], their raw concept maps.
    """
    model = checkpoint.model
    scores = model.scores(maps)
    weights = model.contributions(scores, model.logits(scores).argmax(dim=1)).abs().numpy()
    present = (scores > 0).numpy()
    masks = [read_masks(record.mask_path) for record in records]
    index = {name: position for position, name in enumerate(checkpoint.concepts)}
    visible, on_it = _visible_and_hit(masks, index, weights * present, maps)
    drawn = np.array([name in MASKED_CONCEPTS for name in checkpoint.concepts])
    return Naming(
        drawn=_share(weights, np.broadcast_to(drawn, weights.shape)),
        true=_share(weights, present == visible),
        well_placed=_share(weights * present, on_it),
    )


def _visible_and_hit(
    masks: Sequence[Mapping[str, NDArray[np.bool_]]],
    index: Mapping[str, int],
    counting: NDArray[np.float32],
    maps: Tensor,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """BOOL [N,M] each: which concepts are visible, and of those that count, which maps have their maximum on them."""
    visible, on_it = np.zeros(counting.shape, np.bool_), np.zeros(counting.shape, np.bool_)
    for picture, in_picture in enumerate(masks):
        visible[picture, [index[name] for name in in_picture if name in index]] = True
    cases = pointing_cases(
        (
            {name: mask for name, mask in in_picture.items() if name in index and counting[picture, index[name]] > 0}
            for picture, in_picture in enumerate(masks)
        ),
        concepts=index,
        deciding=lambda *_: True,
    )
    arrays = maps.numpy()
    hits = pointing_hits(cases, lambda picture, concept: arrays[picture, concept])
    on_it[[case.picture for case in cases], [case.concept for case in cases]] = hits
    return visible, on_it


def _share(weights: NDArray[np.float32], chosen: NDArray[np.bool_]) -> float:
    """Weight of the chosen over all weight; 0 where there is none."""
    return float((weights * chosen).sum() / max(float(weights.sum()), 1e-30))
