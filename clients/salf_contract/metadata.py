"""The metadata document: one JSON object per model version, readable by every client.

It lies as `metadata.json` in the version directory and, under `salf_metadata_v<version>`, in the parameters of
config.pbtxt, so that the standard ModelConfig call returns it.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from salf_contract.errors import MetadataError
from salf_contract.picture import Preparation
from salf_contract.tensors import CONTRACT_ID_WORDS
from salf_contract.validation import first_problem

METADATA_FILE = "metadata.json"
_PARAMETER_PREFIX = "salf_metadata_v"


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ExplanationFidelity(_Document):
    """Whether explanations are those of the PyTorch model, on pictures that the export was not calibrated on.

    Compared is the explanation of the class that the PyTorch model predicts, by its five strongest concepts (fewer
    where a class has fewer).
    """

    pictures: int = Field(ge=1, description="how many pictures were compared")
    class_agreement: float = Field(ge=0, le=1, description="share of pictures with the same predicted class")
    top5_overlap: float = Field(ge=0, le=1, description="share of the five strongest concepts that are still shown")
    top5_order: float = Field(ge=0, le=1, description="the same overlap, averaged over the depths 1 to 5")
    map_cosine: float = Field(ge=-1.000001, le=1.000001, description="mean cosine of those concepts' maps")
    lowest_map_cosine: float = Field(ge=-1.000001, le=1.000001)
    largest_contribution_error: float = Field(ge=0, description="of those concepts, in logits")
    pointing: float | None = Field(
        default=None, ge=0, le=1, description="share of maps with their maximum on the concept, where masks exist"
    )
    pointing_source: float | None = Field(default=None, ge=0, le=1, description="the same of the PyTorch model")


class Fidelity(_Document):
    """How close the exported graphs are to the PyTorch model they came from."""

    runtime: str = Field(description="what ran the graph, e.g. 'onnxruntime 1.32.0'")
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    max_abs_error: dict[str, float] = Field(description="output name -> largest absolute difference")
    pictures: int = Field(ge=1, description="how many made-up inputs were compared for max_abs_error")
    explanations: ExplanationFidelity | None = Field(
        default=None, description="on real pictures; always there when the precision is not fp32"
    )
    kept_float: tuple[str, ...] = Field(default=(), description="blocks of the backbone that int8 leaves in float")


class Metadata(_Document):
    """Everything a client needs to read answers of one model version."""

    format_version: Literal[1] = 1
    name: str
    version: int = Field(ge=1)
    classes: tuple[str, ...] = Field(min_length=1, description="K class names, in logit order")
    concepts: tuple[str, ...] = Field(min_length=1, description="M concept names, in index order")
    preparation: Preparation
    pooling: Literal["average", "softmax"]
    map_size: tuple[int, int] = Field(description="(h, w) of a concept map")
    top: int = Field(ge=1, description="n, the slots of the top_* outputs")
    provenance: dict[str, str] = Field(default_factory=dict, description="where the model came from: hashes, versions")
    accuracy: dict[str, float] = Field(default_factory=dict, description="figures from the model card, 0..1")
    fidelity: Fidelity | None = None

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Metadata":
        for kind, names in (("class", self.classes), ("concept", self.concepts)):
            if len(set(names)) != len(names):
                twice = sorted({name for name in names if names.count(name) > 1})
                raise ValueError(f"{kind} names must be unique, but these occur twice: {', '.join(twice)}")
        return self

    @cached_property
    def contract_id(self) -> str:
        """Hash of this document, 32 hex digits (128 bits of SHA-256).

        `fidelity` is left out: it is measured on the finished graph, and the graph carries the id.
        """
        text = json.dumps(self.model_dump(mode="json", exclude={"fidelity"}), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def contract_id_words(self) -> NDArray[np.int32]:
        """The id as it travels in answers: INT32 [4]."""
        return np.frombuffer(bytes.fromhex(self.contract_id), dtype=">i4").astype(np.int32)

    def to_json(self) -> str:
        """The document as stable, readable JSON."""
        return json.dumps(self.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def contract_id_from_words(words: NDArray[np.int32]) -> str:
    """Read the id back from an answer's `contract_id` tensor.

    Args:
        words: INT32 [4].

    Returns:
        32 hex digits, comparable with `Metadata.contract_id`.
    """
    return np.asarray(words, dtype=">i4").reshape(CONTRACT_ID_WORDS).tobytes().hex()


def metadata_parameter(version: int) -> str:
    """Key in config.pbtxt's parameters that holds a version's document."""
    return f"{_PARAMETER_PREFIX}{version}"


def parse_metadata(text: str | bytes) -> Metadata:
    """Read one document.

    Raises:
        MetadataError: not JSON, fields missing or unknown, or another format version.
    """
    try:
        return Metadata.model_validate_json(text)
    except ValidationError as error:
        raise MetadataError(
            f"the model's metadata cannot be read: {first_problem(error)}; export the model again with this salf"
        ) from error


def metadata_in_parameters(parameters: Mapping[str, str]) -> dict[int, Metadata]:
    """All documents found in a model's config parameters.

    Args:
        parameters: parameter key -> string value, as ModelConfig gives them.

    Returns:
        version -> document; empty for a model that salf did not export.

    Raises:
        MetadataError: no version's document can be read. One of a later format does not hide the others.
    """
    documents: dict[int, Metadata] = {}
    unreadable: MetadataError | None = None
    for key, value in parameters.items():
        number = key.removeprefix(_PARAMETER_PREFIX)
        if not (key.startswith(_PARAMETER_PREFIX) and number.isdigit()):
            continue
        try:
            documents[int(number)] = parse_metadata(value)
        except MetadataError as error:
            unreadable = error
    if unreadable is not None and not documents:
        raise unreadable
    return documents
