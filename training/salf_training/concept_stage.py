"""The concept stage: filter the list, embed prompted pictures, fit the bottleneck, drop what was not learnt."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from salf_training.bottleneck import fit_bottleneck
from salf_training.concept_sets import ConceptReport, filter_absent, filter_texts, filter_unlearnt, presence
from salf_training.concept_sets.filters import embed_in_parts
from salf_training.embeddings import (
    cached_prompt_embeddings,
    iter_local_similarities,
    local_similarities,
    strongest_similarities,
)
from salf_training.encoder import Encoder
from salf_training.errors import SettingsError
from salf_training.progress import Progress
from salf_training.settings import TrainSettings


@dataclass(frozen=True)
class FittedConcepts:
    """W_c FP32 [M,C] of the concepts that are left, which may decide (BOOL [M]), and the report on the others."""

    weight: Tensor
    deciding: Tensor
    report: ConceptReport

    @property
    def names(self) -> tuple[str, ...]:
        """M names."""
        return self.report.kept


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
        SettingsError: a presence cutoff that leaves no concept to decide by.
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
        report = filter_absent(
            report, presence(batch for _, batch in iter_local_similarities(embeddings, texts)), filters.presence
        )
        texts = embed_in_parts(text_encoder, report.kept)
    similarities = local_similarities(embeddings, texts)
    deciding = _deciding(similarities, settings.presence_cutoff)
    weight, learnt = fit_bottleneck(
        on_grid,
        similarities,
        settings=settings.bottleneck,
        seed=settings.seed,
        on_progress=on_progress,
    )
    if filters is not None and filters.interpretability is not None:
        trained = report.kept
        report = filter_unlearnt(report, learnt, filters.interpretability)
        left = [name in set(report.kept) for name in trained]
        weight, deciding = weight[left], deciding[left]
    return FittedConcepts(weight, deciding, report)


def _deciding(similarities: Tensor, cutoff: float) -> Tensor:
    """BOOL [M]: the concepts that are present enough in the pictures to decide a class."""
    shown = strongest_similarities(similarities)
    if not (shown >= cutoff).any():
        raise SettingsError(
            f"presence_cutoff {cutoff} leaves none of {len(shown)} concepts to decide by; the strongest reaches "
            f"{float(shown.max()):.2f}"
        )
    return shown >= cutoff
