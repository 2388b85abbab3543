"""Three published folder layouts, read into one value; nothing in them is run.

    show-and-tell   W_c.pt [M,C,1,1]; softmax pooling                  github.com/itaybenou/show-and-tell
    salf-spatial    concept_layer.pt {weight [M,C,1,1], bias [M]}; average   github.com/AtharvRN/SAVLGCBM
    label-free      W_c.pt [M,C]; average                              github.com/Trustworthy-ML-Lab/Label-free-CBM

All of them hold W_g.pt [K,M], b_g.pt [K], proj_mean.pt and proj_std.pt [1,M], and concepts.txt; the names of the
classes (classes.txt) and of the backbone (args.txt) may lie beside them.
Axis letters: C features, M concepts, K classes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from salf_training.errors import CheckpointError
from salf_training.model import Pooling
from salf_training.weights import read_tensor, read_weights

Layout = Literal["show-and-tell", "salf-spatial", "label-free"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

CONCEPTS_FILE = "concepts.txt"
CLASSES_FILE = "classes.txt"
ARGUMENTS_FILE = "args.txt"


@dataclass(frozen=True)
class Published:
    """Everything after the backbone, as a folder holds it; FP32, finite.

    Attributes:
        pooling: what the layout's code does.
        concept_weight: [M,C].
        concept_bias: [M].
        score_mean: [M].
        score_std: [M], positive.
        head_weight: [K,M].
        head_bias: [K].
        concepts: M names.
        classes: K names.
    """

    pooling: Pooling
    concept_weight: Tensor
    concept_bias: Tensor
    score_mean: Tensor
    score_std: Tensor
    head_weight: Tensor
    head_bias: Tensor
    concepts: tuple[str, ...]
    classes: tuple[str, ...]


def read_published(folder: Path, layout: Layout, *, classes: Path | None = None) -> Published:
    """Read a published checkpoint and check that its parts fit together.

    Args:
        folder: the checkpoint.
        layout: whose code wrote it.
        classes: text file with one class name a line; None takes classes.txt in the folder.

    Raises:
        CheckpointError: a file is missing, of another shape, or contradicts another.
        WeightsError: a file is no tensor file, or holds more than tensors.
    """
    if layout not in LAYOUTS:
        raise CheckpointError(f"the layout {layout!r} is unknown, expected one of {', '.join(LAYOUTS)}")
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder} to import")
    weight, bias = _concept_layer(folder, layout)
    concepts = _names(_existing(folder, CONCEPTS_FILE))
    labels = _names(_existing(folder, CLASSES_FILE, remedy="give the class names") if classes is None else classes)
    if len(concepts) != len(weight):
        raise CheckpointError(
            f"{folder / CONCEPTS_FILE} holds {len(concepts)} names, but the bottleneck has {len(weight)} concepts"
        )
    m, k = len(concepts), len(labels)
    std = _tensor(folder, "proj_std.pt", ((1, m), (m,))).reshape(m)
    if (std <= 0).any():
        first = int((std <= 0).nonzero()[0])
        raise CheckpointError(
            f"{folder / 'proj_std.pt'} is {float(std[first]):g} for concept {first} ({concepts[first]!r}), expected a "
            "positive number: a concept that never varied must be left out of the checkpoint"
        )
    return Published(
        pooling="softmax" if layout == "show-and-tell" else "average",
        concept_weight=weight,
        concept_bias=bias,
        score_mean=_tensor(folder, "proj_mean.pt", ((1, m), (m,))).reshape(m),
        score_std=std,
        head_weight=_tensor(folder, "W_g.pt", ((k, m),)),
        head_bias=_tensor(folder, "b_g.pt", ((k,),)),
        concepts=concepts,
        classes=labels,
    )


def named_backbone(folder: Path) -> str:
    """The backbone that args.txt names.

    Raises:
        CheckpointError: no args.txt, no JSON, or no name in it.
    """
    path = _existing(folder, ARGUMENTS_FILE, remedy="it would name the backbone, so say which one it is")
    try:
        arguments: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON ({error}); say which backbone the model has") from error
    name = arguments.get("backbone") if isinstance(arguments, dict) else None
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{path} names no backbone; say which one the model has")
    return name


def _concept_layer(folder: Path, layout: Layout) -> tuple[Tensor, Tensor]:
    """Weight [M,C] and bias [M] of the bottleneck."""
    if layout == "salf-spatial":
        path = _existing(folder, "concept_layer.pt")
        state = read_weights(path)
        if set(state) != {"weight", "bias"}:
            raise CheckpointError(
                f"{path} holds {', '.join(sorted(state)) or 'nothing'}, expected weight and bias of a 1x1 convolution"
            )
        weight = _convolution(path, _numbers(f"weight in {path}", state["weight"]))
        bias = _numbers(f"bias in {path}", state["bias"])
        if bias.shape != weight.shape[:1]:
            raise CheckpointError(f"bias in {path} has shape {_shape(bias)}, expected [{len(weight)}]")
        return weight, bias
    path = _existing(folder, "W_c.pt")
    weight = _numbers(str(path), read_tensor(path))
    if layout == "show-and-tell":
        weight = _convolution(path, weight)
    elif weight.ndim != 2 or 0 in weight.shape:
        raise CheckpointError(
            f"{path} has shape {_shape(weight)}, expected [concepts, channels]; "
            "a convolution [concepts, channels, 1, 1] belongs to the layout show-and-tell"
        )
    return weight, torch.zeros(len(weight))


def _convolution(path: Path, weight: Tensor) -> Tensor:
    """[M,C,1,1] -> [M,C]."""
    if weight.ndim != 4 or weight.shape[2:] != (1, 1) or 0 in weight.shape:
        raise CheckpointError(
            f"{path} has shape {_shape(weight)}, expected a 1x1 convolution [concepts, channels, 1, 1]; "
            "a matrix [concepts, channels] belongs to the layout label-free"
        )
    return weight[:, :, 0, 0].contiguous()


def _tensor(folder: Path, file_name: str, shapes: tuple[tuple[int, ...], ...]) -> Tensor:
    path = _existing(folder, file_name)
    tensor = read_tensor(path)
    if tuple(tensor.shape) not in shapes:
        raise CheckpointError(
            f"{path} has shape {_shape(tensor)}, expected {list(shapes[0])} as the names of concepts and classes and "
            "the other files say"
        )
    return _numbers(str(path), tensor)


def _numbers(what: str, tensor: Tensor) -> Tensor:
    """A dense tensor of finite floating-point numbers, as FP32."""
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
        raise CheckpointError(f"{what} is {tensor.dtype} ({tensor.layout}), expected dense floating-point numbers")
    numbers = tensor.to(torch.float32)
    if not numbers.isfinite().all():
        raise CheckpointError(f"{what} holds {int((~numbers.isfinite()).sum())} values that are not finite")
    return numbers


def _names(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").strip().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"the names in {path} cannot be read: {error}") from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or "" in names or twice:
        fault = f"these occur twice: {', '.join(map(repr, twice))}" if twice else "a line is empty"
        raise CheckpointError(f"{path} must hold one name a line, none empty and none twice, but {fault}")
    return names


def _existing(folder: Path, file_name: str, *, remedy: str = "is it of another layout?") -> Path:
    path = folder / file_name
    if not path.is_file():
        raise CheckpointError(f"{folder} misses {file_name}; {remedy}")
    return path


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
