"""What callers say in words, as indices of a model: classes, concepts, and how many of them."""

import difflib
import operator
from typing import SupportsIndex

from salf_client.errors import TopOutOfRangeError, UnknownClassError, UnknownConceptError
from salf_client.models import ModelInfo
from salf_contract import Metadata

#: How many concepts an explanation shows unless told otherwise.
DEFAULT_TOP = 5


def checked_top(top: int | None, model: Metadata | ModelInfo) -> int:
    """How many concepts to show.

    Raises:
        TopOutOfRangeError: not in 1..n of the model.
    """
    if top is None:
        return min(DEFAULT_TOP, model.top)
    if not 1 <= top <= model.top:
        raise TopOutOfRangeError(
            f"top={top}, but answers of model '{model.name}' hold 1 to {model.top} concepts; "
            f"ask for one of those, or export the model with more slots"
        )
    return operator.index(top)


def class_index(target: str | SupportsIndex, metadata: Metadata) -> int:
    """Index of a class, given by name or index.

    Raises:
        UnknownClassError: it is none of the model's.
    """
    classes = metadata.classes
    if isinstance(target, str):
        if target in classes:
            return classes.index(target)
        raise UnknownClassError(f"model '{metadata.name}' has no class '{target}'; {_hint(target, classes, 'classes')}")
    index = operator.index(target)
    if not 0 <= index < len(classes):
        raise UnknownClassError(
            f"model '{metadata.name}' has no class {index}; indices go from 0 to {len(classes) - 1}: {_listed(classes)}"
        )
    return index


def concept_index(concept: str | SupportsIndex, metadata: Metadata) -> int:
    """Index of a concept, given by name or index.

    Raises:
        UnknownConceptError: it is none of the model's.
    """
    concepts = metadata.concepts
    if isinstance(concept, str):
        if concept in concepts:
            return concepts.index(concept)
        hint = _hint(concept, concepts, "concepts")
        raise UnknownConceptError(f"model '{metadata.name}' has no concept '{concept}'; {hint}")
    index = operator.index(concept)
    if not 0 <= index < len(concepts):
        raise UnknownConceptError(
            f"model '{metadata.name}' has no concept {index}; indices go from 0 to {len(concepts) - 1}"
        )
    return index


def keeps_class(index: int | None, prepared_by: Metadata, answered_by: Metadata) -> bool:
    """Whether a class's index, or None for the predicted one, means the same class to another document."""
    if index is None:
        return True
    classes = answered_by.classes
    return index < len(classes) and prepared_by.classes[index] == classes[index]


def _hint(name: str, names: tuple[str, ...], kind: str) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"its {kind} are {_listed(names)}"


def _listed(names: tuple[str, ...], limit: int = 12) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
