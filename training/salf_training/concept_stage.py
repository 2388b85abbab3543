"""The concept stage: filter the list, embed prompted pictures, fit the bottleneck, drop or mute what was not learnt."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from salf_training.bottleneck import fit_bottleneck
from salf_training.concept_sets import ConceptReport, filter_absent, filter_texts, filter_unlearnt, presence
from salf_training.concept_sets.filters import embed_in_parts
from salf_training.embeddings import LocalSimilarities, cached_prompt_embeddings, iter_local_similarities
from salf_training.encoder import Encoder
from salf_training.progress import Progress
from salf_training.settings import TrainSettings


@dataclass(frozen=True)
class FittedConcepts:
    """W_c FP32 [M,C] of the concepts that are left, and the report on the others."""

    weight: Tensor
    report: ConceptReport

    @property
    def names(self) -> tuple[str, ...]:
        """M names."""
        return self.report.kept

    @property
    def deciding(self) -> Tensor:
        """BOOL [M]: which may decide a class."""
        names = set(self.report.deciding)
        return torch.tensor([name in names for name in self.report.kept])


def fit_concepts(
    on_grid: Tensor,
    paths: Sequence[Path],
    concepts: tuple[str, ...],
    class_names: tuple[str, ...],
    encoders: Sequence[Encoder],
    settings: TrainSettings,
    on_progress: Progress,
) -> FittedConcepts:
    """Fit the bottleneck on a subset's similarities.

    Args:
        on_grid: FP32 [S,C,G], features of the subset at the cells of the prompt grid.
        paths: its S pictures.
        concepts: the list as given.
        class_names: K names as people say them.
        encoders: equal ones, which take turns; the first embeds texts.
        settings: circles, schedule, filters.
        on_progress: told as each stage goes on.

    Raises:
        DataError: broken pictures, or a filter that leaves no concept.
    """
    filters, text_encoder = settings.concept_filters, encoders[0]
    if filters is None:
        report = ConceptReport(given=len(concepts), kept=concepts, dropped=())
    else:
        report = filter_texts(concepts, class_names, text_encoder, filters)
    embeddings = cached_prompt_embeddings(
        settings.cache,
        paths,
        encoders,
        settings.circles,
        preparation=settings.preparation,
        on_progress=on_progress,
    )
    texts = embed_in_parts(text_encoder, report.kept)
    if filters is not None and filters.presence is not None:
        strengths = presence(batch for _, batch in iter_local_similarities(embeddings, texts))
        report = filter_absent(report, strengths, filters.presence, filters.failing)
        texts = embed_in_parts(text_encoder, report.kept)
    weight, learnt = fit_bottleneck(
        on_grid,
        LocalSimilarities(embeddings, texts),
        settings=settings.bottleneck,
        seed=settings.seed,
        on_progress=on_progress,
    )
    if filters is not None and filters.interpretability is not None:
        trained = report.kept
        report = filter_unlearnt(report, learnt, filters.interpretability, filters.failing)
        left = set(report.kept)
        weight = weight[[name in left for name in trained]]
    return FittedConcepts(weight, report)
