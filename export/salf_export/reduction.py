"""From the options of a reduced precision to a backbone that passes, and the report about it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import ModelProto
from pydantic import BaseModel, ConfigDict, Field

from salf_contract import FidelityVerdict, Thresholds
from salf_export.artefacts import make_artefact
from salf_export.errors import OptionError
from salf_export.explanation_fidelity import compare_explanations, explain_with_torch
from salf_export.folding import graph_head, linear_head
from salf_export.gate import pressure
from salf_export.graphs import explain_graph
from salf_export.kinds import Kind
from salf_export.pictures import Pictures
from salf_export.quantising import Quantiser
from salf_export.sensitivity import Choice, choose_blocks
from salf_training.model import SalfModel


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PictureSet(_Document):
    """Which pictures were used."""

    pictures: int
    sha256: str = Field(description="of the prepared pixels")


class BlockReport(_Document):
    """One block of the backbone."""

    kept_float: bool
    alone: float | None = Field(
        default=None, description="share of the gate's allowance that int8 in this block alone uses up; null: not tried"
    )


class FidelityReport(FidelityVerdict):
    """`fidelity.json`, beside the model: everything that was compared before it was published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    held_out: PictureSet | None = None
    calibration: PictureSet | None = None
    blocks: dict[str, BlockReport] = Field(default_factory=dict, description="of the backbone; empty unless int8")

    def to_json(self) -> str:
        """Stable, readable JSON."""
        return self.model_dump_json(indent=1) + "\n"


def check_folders(kind: Kind, *, calibration: Path | None, held_out: Path | None) -> None:
    """Raises OptionError, with the option to add, unless the folders fit the precision."""
    if kind.precision == "int8" and calibration is None:
        raise OptionError(f"{kind} needs pictures like those that will be asked about: add --calibration FOLDER")
    if kind.precision != "int8" and calibration is not None:
        raise OptionError(f"{kind} is not calibrated: leave --calibration out, or choose --precision int8")
    if kind.is_reduced and held_out is None:
        raise OptionError(
            f"{kind} is published only if explanations survive it: add --held-out FOLDER, pictures to compare them on"
        )


def reduce_backbone(
    backbone: ModelProto,
    model: SalfModel,
    calibration: Pictures,
    *,
    kind: Kind,
    top: int,
    thresholds: Thresholds,
    on_step: Callable[[str], None] = lambda _text: None,
) -> Choice:
    """Quantise a backbone, and leave in float what explanations cannot bear in int8.

    Args:
        backbone: in float.
        model: the PyTorch model that it came from.
        calibration: ranges are measured on them, and blocks are chosen on them.
        kind: its runtime computes the candidates.
        top: slots of the explanation.
        thresholds: what the choice keeps a distance from.
        on_step: told what is being done.

    Raises:
        GraphError: the backbone cannot be quantised.
    """
    on_step("measuring ranges")
    quantiser = Quantiser(backbone, calibration.pixels, symmetric=kind.runtime == "tensorrt")
    on_step("asking the PyTorch model")
    expected = explain_with_torch(model, calibration.pixels, top=top)
    head = graph_head(linear_head(model))
    nobody = np.zeros(4, np.int32)

    def pressure_of(candidate: ModelProto) -> float:
        on_step("trying int8")
        session = make_artefact(explain_graph(candidate, head, top=top, contract_id=nobody), kind).session
        return pressure(compare_explanations(session, calibration.pixels, expected), thresholds)

    return choose_blocks(quantiser, pressure_of)


def block_reports(choice: Choice | None) -> dict[str, BlockReport]:
    """What became of each block, by name, in the graph's order."""
    if choice is None:
        return {}
    kept = {block.name for block in choice.kept}
    return {name: BlockReport(kept_float=name in kept, alone=choice.alone.get(name)) for name in choice.blocks}


def picture_set(pictures: Pictures | None) -> PictureSet | None:
    """What the report says about pictures."""
    return None if pictures is None else PictureSet(pictures=len(pictures), sha256=pictures.sha256)
