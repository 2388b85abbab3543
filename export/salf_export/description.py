"""The metadata document of an export: names, sizes, and where everything came from."""

import hashlib
from importlib.metadata import version as package_version
from pathlib import Path

import onnx

from salf_contract import Metadata
from salf_export.kinds import Kind
from salf_export.pictures import Pictures
from salf_export.tensorrt_api import engine_provenance
from salf_training.checkpoint import CARD_FILE, CLASSES_FILE, CONCEPTS_FILE, WEIGHTS_FILE, Checkpoint, file_sha256


def describe(
    source: Checkpoint, folder: Path, *, name: str, version: int, top: int, kind: Kind, calibration: Pictures | None
) -> Metadata:
    """The metadata document, without fidelity.

    Args:
        source: the loaded checkpoint.
        folder: that it was loaded from.
        name: of the explain model.
        version: to be written.
        top: slots of the explanation.
        kind: what will compute it.
        calibration: pictures that int8 is calibrated on; None for other precisions.
    """
    card = source.card
    accuracy: dict[str, float] = {}
    if card.evaluation is not None:
        accuracy = {"accuracy": card.evaluation.accuracy, "backbone_accuracy": card.evaluation.backbone_accuracy}
        if card.evaluation.localisation is not None:
            accuracy["pointing_deciding_concepts"] = card.evaluation.localisation.deciding_concepts
            accuracy["pointing_all_objects"] = card.evaluation.localisation.all_objects
    files = "".join(file_sha256(folder / part) for part in (CARD_FILE, CLASSES_FILE, CONCEPTS_FILE, WEIGHTS_FILE))
    # NVIDIA's image may hold tensorrt without a distribution's metadata: the module itself knows.
    bound_to = engine_provenance() if kind.runtime == "tensorrt" else {}
    provenance = {
        "checkpoint_sha256": hashlib.sha256(files.encode()).hexdigest(),
        "weights_sha256": card.weights_sha256,
        "backbone": card.backbone.name,
        "concepts_per_class": f"{card.concepts_per_class:g}",
        "salf_version": package_version("salf"),
        "torch_version": package_version("torch"),
        "onnx_version": onnx.__version__,
        "runtime": f"{kind.runtime} {bound_to.get('tensorrt_version') or package_version(kind.runtime)}",
        "precision": kind.precision,
        **bound_to,
    }
    if calibration is not None:
        provenance |= {"calibration_pictures": str(len(calibration)), "calibration_sha256": calibration.sha256}
    return Metadata(
        name=name,
        version=version,
        classes=source.classes,
        concepts=source.concepts,
        preparation=card.preparation,
        pooling=card.pooling,
        map_size=card.feature_shape[1:] if card.map_size is None else card.map_size,
        top=top,
        provenance=provenance | {f"data_{key}": value for key, value in card.data.items()},
        accuracy=accuracy,
    )
