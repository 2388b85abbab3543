"""Filter a list in a file, before any training: `salf concepts filter`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from salf_contract import Preparation
from salf_training.concept_sets.filters import ConceptFilters, embed_in_parts, filter_absent, filter_texts, presence
from salf_training.concept_sets.report import ConceptReport
from salf_training.encoder import Encoder, EncoderSettings, device_of
from salf_training.encoder_loading import load_encoders
from salf_training.image_folder import batches_of_pixels, read_image_folder, read_names
from salf_training.progress import Progress, silent
from salf_training.whole_files import replace_file

_BATCH = 32


def filter_file(
    concepts: Path,
    classes: Path,
    encoder: EncoderSettings,
    filters: ConceptFilters,
    *,
    pictures: Path | None,
    out: Path,
    on_progress: Progress = silent,
) -> ConceptReport:
    """Read a list, filter it, and write what is left and a report beside it.

    Args:
        concepts: the list, one a line.
        classes: K names, one a line.
        encoder: compares texts, and texts with pictures.
        filters: thresholds; interpretability is not looked at, it needs a trained bottleneck.
        pictures: image folder for the filter of presence; pictures are looked at whole, without prompts.
        out: for the list; the report has the ending .report.json.
        on_progress: told as pictures are looked at.

    Raises:
        TrainingError: files or weights that cannot be used, or nothing is left.
    """
    names, class_names = read_names(concepts), read_names(classes)
    paths = read_image_folder(pictures).paths if pictures is not None else ()
    loaded = load_encoders(encoder)[0]
    report = filter_texts(names, class_names, loaded, filters)
    if filters.presence is not None and paths:
        texts = embed_in_parts(loaded, report.kept)
        strengths = presence(_whole_pictures(paths, loaded, texts, on_progress))
        report = filter_absent(report, strengths, filters.presence)
    write_names(out, report.kept)
    report.write(out.with_suffix(".report.json"))
    return report


def write_names(path: Path, names: Sequence[str]) -> None:
    """Write a list, one name a line, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, "".join(f"{name}\n" for name in names).encode())


def _whole_pictures(paths: Sequence[Path], encoder: Encoder, texts: Tensor, on_progress: Progress) -> Iterator[Tensor]:
    """Cosines of whole pictures and texts, FP32 [B,M,1]."""
    height, width = encoder.image_size
    done = 0
    for pixels in batches_of_pixels(paths, Preparation(height=height, width=width), batch_size=_BATCH):
        embedded = encoder.embed_images(torch.from_numpy(pixels).to(device_of(encoder))).float().cpu()
        done += len(pixels)
        on_progress("pictures", done, len(paths))
        yield (embedded @ texts.T)[:, :, None]
