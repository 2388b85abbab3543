"""The demonstration model from nothing: Scenes, encoder, backbone, SALF-CBM. Nothing is downloaded.

Guide figures are in the design, section 8; the model card of the committed model holds what was reached.
"""

from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file

from salf_contract import Preparation
from salf_training.backbone import BackboneSettings, build_backbone
from salf_training.backbone_training import BackboneTraining, train_backbone
from salf_training.bottleneck import BottleneckTraining
from salf_training.checkpoint import Checkpoint
from salf_training.concept_sets import ConceptFilters
from salf_training.embeddings import cached_prompt_embeddings
from salf_training.encoder import EncoderSettings, OpenClipEncoder
from salf_training.encoder_training import MERGES_FILE, WEIGHTS_FILE, EncoderTraining, train_encoder
from salf_training.errors import DataError
from salf_training.features import compute_features
from salf_training.head import HeadTraining
from salf_training.image_folder import batches_of_pixels, read_image_folder
from salf_training.pipeline import REPORT_FILE
from salf_training.pipeline import train as train_salf
from salf_training.progress import Progress, silent
from salf_training.prompts import CircleSettings
from salf_training.scene_localisation import localise_on_scenes
from salf_training.scene_naming import naming_on_scenes
from salf_training.scene_samples import scene_samples
from salf_training.scenes import CLASSES, CONCEPTS, read_scenes, write_scenes
from salf_training.scenes.files import DRAWING_VERSION
from salf_training.settings import TrainSettings, write_settings
from salf_training.weights import read_weights

#: The run's settings, beside its pictures.
SETTINGS_FILE = "settings.yaml"
_HELD_OUT_SEED = 1_000_000  # far from the training scenes' seeds
_HALF = (0.5, 0.5, 0.5)


class SceneWorldSettings(BaseModel):
    """Sizes and schedules; the defaults are the committed demonstration model's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    scenes: int = Field(default=12000, ge=12, description="training scenes, all of them for bottleneck and head")
    backbone_scenes: int = Field(default=8000, ge=12, description="the first of them, which the backbone learns from")
    held_out_scenes: int = Field(default=1500, ge=12)
    encoder_scenes: int = Field(default=4000, ge=1, description="training scenes that the encoder learns from")
    circles_per_scene: int = Field(default=12, ge=1)
    crops_per_scene: int = Field(default=2, ge=0)
    encoder: EncoderTraining = EncoderTraining()
    encoder_starts_from_backbone: bool = Field(
        default=True,
        description="the image tower starts from the backbone's weights, which must be of the same network",
    )
    # A line of 2.5 px at the small encoder's 112 px: it must stand out to a network that sees little.
    circles: CircleSettings = CircleSettings(line_width=5 / 224)
    backbone: BackboneSettings = BackboneSettings(name="test_resnet", options={"output_stride": 16})
    image_size: int = Field(default=112, description="pixels of the model's input")
    backbone_training: BackboneTraining = BackboneTraining()
    similarity_pictures: int = Field(default=2000, ge=2)
    localisation_encoder_pictures: int = Field(default=300, ge=1, description="held-out scenes to judge the encoder by")
    # More steps fit the training similarities better and unseen pictures worse.
    bottleneck: BottleneckTraining = BottleneckTraining(steps=500)
    # The list stays whole: what is nowhere (elephant, violin; 0.3 at most), of which the encoder is not sure enough
    # (many small parts and backgrounds; objects reach 0.75), or what was not learnt keeps its map but decides nothing.
    concept_filters: ConceptFilters | None = ConceptFilters(
        length=None,
        class_similarity=None,
        concept_similarity=None,
        presence=0.72,
        interpretability=0.45,
        failing="mute",
    )
    head: HeadTraining = HeadTraining()


def train_scene_world(settings: SceneWorldSettings, folder: Path, *, on_progress: Progress = silent) -> Checkpoint:
    """Draw, train and measure.

    Args:
        settings: sizes and schedules.
        folder: for pictures, encoder, backbone and caches; what is there already from the same settings is used again.
            Gets settings.yaml, as `salf train` and `salf evaluate --encoder` read it, and the report on concepts.
        on_progress: told as each stage goes on.

    Returns:
        The checkpoint, with localisation in its card; not yet saved.

    Raises:
        DataError: the folder holds scenes of other settings.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    train, held_out = folder / "train", folder / "held_out"
    draw_splits(settings, train, held_out, on_progress=on_progress)
    scenes = {"seed", "scenes"}
    from_backbone = scenes | {"backbone_scenes", "backbone", "image_size", "backbone_training"}
    backbone_weights = folder / "backbone.safetensors"
    if not _is_from(settings, from_backbone, backbone_weights):
        backbone_weights.unlink(missing_ok=True)
        _train_backbone(settings, train, backbone_weights, on_progress)
        _note_from(settings, from_backbone, backbone_weights)
    from_encoder = scenes | {"encoder_scenes", "circles_per_scene", "crops_per_scene", "encoder", "circles"}
    if settings.encoder_starts_from_backbone:
        from_encoder |= from_backbone | {"encoder_starts_from_backbone"}
    weights = folder / "encoder" / WEIGHTS_FILE
    if not _is_from(settings, from_encoder, weights):
        weights.unlink(missing_ok=True)
        start = read_weights(backbone_weights) if settings.encoder_starts_from_backbone else None
        _train_encoder(settings, train, weights.parent, start, on_progress)
        _note_from(settings, from_encoder, weights)
    (folder / "concepts.txt").write_text("".join(f"{name}\n" for name in CONCEPTS))
    encoder_settings = EncoderSettings(model=f"local-dir:{folder / 'encoder'}", merges=folder / "encoder" / MERGES_FILE)
    encoder = OpenClipEncoder(encoder_settings)
    training = TrainSettings(
        train=train,
        held_out=held_out,
        concepts=folder / "concepts.txt",
        cache=folder / "cache",
        seed=settings.seed,
        backbone=settings.backbone,
        backbone_weights=backbone_weights,
        preparation=_preparation(settings),
        pixel_mean=_HALF,
        pixel_std=_HALF,
        encoder=encoder_settings,
        circles=settings.circles,
        similarity_pictures=settings.similarity_pictures,
        bottleneck=settings.bottleneck,
        concept_filters=settings.concept_filters,
        head=settings.head,
    )
    write_settings(folder / SETTINGS_FILE, training)
    trained = train_salf(training, encoder=encoder, on_progress=on_progress)
    if settings.concept_filters is not None:
        trained.concepts.write(folder / REPORT_FILE)
    checkpoint = trained.checkpoint
    return _with_localisation(checkpoint, settings, held_out, encoder, folder / "cache", on_progress)


def draw_splits(settings: SceneWorldSettings, train: Path, held_out: Path, *, on_progress: Progress = silent) -> None:
    """Draw the training and held-out scenes; scenes that are there already are kept.

    Raises:
        DataError: a folder holds other pictures too.
    """

    def tell(done: int) -> None:
        on_progress("scenes", done, count)

    for split, count, first_seed in ((train, settings.scenes, 0), (held_out, settings.held_out_scenes, _HELD_OUT_SEED)):
        write_scenes(
            split,
            count=count,
            first_seed=first_seed + settings.seed * 10_000_000,
            on_progress=tell,
        )
        drawn = {record.path for record in read_scenes(split)}
        if foreign := sorted(set((split / "images").rglob("*.png")) - drawn):
            raise DataError(
                f"{split} holds {len(foreign)} pictures besides these {count} scenes, e.g. {foreign[0].name}: it was "
                "drawn with other settings; remove it or give another folder"
            )


def _is_from(settings: SceneWorldSettings, names: set[str], file: Path) -> bool:
    """Whether a trained file is there and was trained with the same values of these settings."""
    note = file.with_suffix(".from.txt")
    return file.is_file() and note.is_file() and note.read_text() == _origin(settings, names)


def _note_from(settings: SceneWorldSettings, names: set[str], file: Path) -> None:
    file.with_suffix(".from.txt").write_text(_origin(settings, names))


def _origin(settings: SceneWorldSettings, names: set[str]) -> str:
    return f"drawing {DRAWING_VERSION}\n{settings.model_dump_json(include=names)}\n"


def _preparation(settings: SceneWorldSettings) -> Preparation:
    return Preparation(height=settings.image_size, width=settings.image_size)


def _train_encoder(
    settings: SceneWorldSettings,
    train: Path,
    folder: Path,
    tower_weights: dict[str, torch.Tensor] | None,
    on_progress: Progress,
) -> None:
    samples = scene_samples(
        read_scenes(train)[: settings.encoder_scenes],
        image_size=settings.encoder.image_size,
        circles_per_scene=settings.circles_per_scene,
        crops_per_scene=settings.crops_per_scene,
        seed=settings.seed,
        on_progress=on_progress,
    )
    train_encoder(
        samples,
        folder,
        settings=settings.encoder,
        circles=settings.circles,
        vocabulary=[*samples.texts, *CONCEPTS],
        seed=settings.seed,
        tower_weights=tower_weights,
        on_progress=on_progress,
    )


def _train_backbone(settings: SceneWorldSettings, train: Path, out: Path, on_progress: Progress) -> None:
    pictures = read_image_folder(train)
    if pictures.classes != tuple(sorted(CLASSES)):
        raise AssertionError(f"drawn classes {pictures.classes} are not the scenes' own")
    first = {record.path for record in read_scenes(train)[: settings.backbone_scenes]}
    kept = [index for index, path in enumerate(pictures.paths) if path in first]
    paths = [pictures.paths[index] for index in kept]
    pixels = np.concatenate(list(batches_of_pixels(paths, _preparation(settings), batch_size=64)))
    torch.manual_seed(settings.seed)
    backbone = build_backbone(settings.backbone)
    classifier = train_backbone(
        backbone,
        pixels,
        pictures.labels[kept],
        classes=len(pictures.classes),
        pixel_mean=_HALF,
        pixel_std=_HALF,
        settings=settings.backbone_training,
        seed=settings.seed,
        on_progress=on_progress,
    )
    tensors = {
        **backbone.network.state_dict(),
        "classifier.weight": classifier.weight,
        "classifier.bias": classifier.bias,
    }
    aside = out.with_suffix(".aside")
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, aside)
    aside.replace(out)


def _with_localisation(
    checkpoint: Checkpoint,
    settings: SceneWorldSettings,
    held_out: Path,
    encoder: OpenClipEncoder,
    cache: Path,
    on_progress: Progress,
) -> Checkpoint:
    records = read_scenes(held_out)
    embeddings = cached_prompt_embeddings(
        cache,
        [record.path for record in records[: settings.localisation_encoder_pictures]],
        encoder,
        settings.circles,
        preparation=_preparation(settings),
        on_progress=on_progress,
    )
    features = compute_features(checkpoint.model, [record.path for record in records], checkpoint.card.preparation)
    with torch.inference_mode():
        maps = checkpoint.model.concept_maps(features)
    localisation = localise_on_scenes(
        checkpoint,
        records,
        maps=maps,
        encoder_embeddings=embeddings,
        encoder_texts=encoder.embed_texts(checkpoint.concepts),
    )
    naming = naming_on_scenes(checkpoint, records, maps)
    card = checkpoint.card
    if card.evaluation is None:
        raise AssertionError("training always evaluates")
    data = {**card.data, "world": "Scenes", "drawn": f"{settings.scenes} + {settings.held_out_scenes} scenes"}
    evaluation = card.evaluation.model_copy(update={"localisation": localisation, "naming": naming})
    changed = card.model_copy(update={"evaluation": evaluation, "data": data})
    return Checkpoint(checkpoint.model, changed, checkpoint.classes, checkpoint.concepts)
