"""Do a model's concept maps follow the encoder that named the concepts, on pictures that it did not learn from?"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from salf_training.bottleneck import cubed_cosine
from salf_training.checkpoint import Checkpoint
from salf_training.embeddings import cached_prompt_embeddings, local_similarities
from salf_training.encoder import Encoder
from salf_training.evaluation.batching import batches
from salf_training.evaluation.document import ConceptSimilarity
from salf_training.features import features_on_grid
from salf_training.progress import Progress, silent
from salf_training.prompts import PromptSettings


@dataclass(frozen=True)
class EncoderView:
    """An encoder (several equal ones take turns) and the visual prompts that it looks through."""

    encoders: tuple[Encoder, ...]
    prompts: PromptSettings


@torch.inference_mode()
def concept_similarities(
    checkpoint: Checkpoint,
    paths: Sequence[Path],
    view: EncoderView,
    *,
    count: int,
    on_progress: Progress = silent,
) -> tuple[ConceptSimilarity, ...]:
    """Every concept's cubed cosine between its maps and the encoder's similarities over all cells, best first.

    Args:
        checkpoint: the model.
        paths: pictures; evenly spread ones of them are looked at.
        view: the encoder.
        count: most pictures; each costs one embedding per cell of the prompt grid.
        on_progress: told as the encoder goes on.
    """
    chosen = paths[:: -(-len(paths) // count)]
    rows, columns = view.prompts.rows, view.prompts.columns
    preparation = checkpoint.card.preparation
    with tempfile.TemporaryDirectory(prefix="salf-evaluate-") as cache:
        embeddings = cached_prompt_embeddings(
            Path(cache), chosen, view.encoders, view.prompts, preparation=preparation, on_progress=on_progress
        )
        similarities = local_similarities(embeddings, view.encoders[0].embed_texts(checkpoint.concepts))
    model = checkpoint.model
    maps = torch.cat(
        [
            features_on_grid(model.concept_maps(model.features(pixels)), rows=rows, columns=columns)
            for pixels, _ in batches(chosen, preparation)
        ]
    )
    found = cubed_cosine(maps.transpose(0, 1).flatten(1), similarities.transpose(0, 1).flatten(1).float()).tolist()
    named = [
        ConceptSimilarity(concept=concept, similarity=value)
        for concept, value in zip(checkpoint.concepts, found, strict=True)
    ]
    return tuple(sorted(named, key=lambda one: -one.similarity))
