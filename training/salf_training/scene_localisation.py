"""Where do a model's maps and its encoder's similarities point, on Scenes, where the truth is known to the pixel?"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from salf_training.checkpoint import Checkpoint, Localisation
from salf_training.embeddings import local_similarities
from salf_training.localisation import (
    TOLERANCE_PX,
    centre_point_hits,
    pointing_cases,
    pointing_hits,
    random_point_rate,
)
from salf_training.scenes import CLASS_OBJECTS, CLASSES, DRAWN_OBJECTS, SceneRecord, read_masks


def localise_on_scenes(
    checkpoint: Checkpoint,
    records: Sequence[SceneRecord],
    *,
    maps: torch.Tensor,
    encoder_embeddings: NDArray[np.float16],
    encoder_texts: torch.Tensor,
) -> Localisation:
    """Play the pointing game on held-out scenes.

    Deciding concepts of a picture are its own class's objects; all objects are every drawn object in it.

    Args:
        checkpoint: the model.
        records: N held-out scenes.
        maps: FP32 [N,M,h,w], their concept maps.
        encoder_embeddings: FP16 [E,G,D] of the first E of these scenes, to tell how good the teacher is.
        encoder_texts: FP32 [M,D] of the checkpoint's concepts.
    """
    index = {name: i for i, name in enumerate(checkpoint.concepts) if name in DRAWN_OBJECTS}
    cases = pointing_cases(
        (read_masks(record.mask_path) for record in records),
        concepts=index,
        deciding=lambda picture, name: name in CLASS_OBJECTS[CLASSES[records[picture].label]],
    )
    arrays = maps.numpy()
    hits = pointing_hits(cases, lambda picture, concept: arrays[picture, concept])
    grid = checkpoint.card.grid
    similarities = local_similarities(encoder_embeddings, encoder_texts).unflatten(2, grid).numpy()
    seen_by_encoder = [case for case in cases if case.picture < len(similarities)]
    encoder_hits = pointing_hits(seen_by_encoder, lambda picture, concept: similarities[picture, concept])
    return Localisation(
        tolerance_px=TOLERANCE_PX,
        deciding_concepts=float(hits[[case.decides for case in cases]].mean()),
        all_objects=float(hits.mean()),
        centre_point=float(centre_point_hits(cases).mean()),
        random_point=random_point_rate(cases),
        encoder=float(encoder_hits.mean()),
    )
