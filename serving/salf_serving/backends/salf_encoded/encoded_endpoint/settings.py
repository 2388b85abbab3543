"""What a model's config.pbtxt asks of the backend."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from salf_contract import PictureLimits

#: Parameters that speak to salf's clients, not to backends.
_OWN_PREFIX = "salf_"
_LIMITS = frozenset(PictureLimits.model_fields)
_CONCEPT_SERIES = "max_concept_series"
DEFAULT_CONCEPT_SERIES = 1000


@dataclass(frozen=True)
class Settings:
    """How pictures are received.

    Attributes:
        limits: of a picture.
        concept_series: how many pairs of class and concept one instance counts by name; the rest is "other".
    """

    limits: PictureLimits
    concept_series: int


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Read parameters of a model configuration; what is not given has the contract's default.

    Args:
        config: Triton's model configuration as JSON gives it.

    Raises:
        ValueError: an unknown parameter, or one that is no positive number.
    """
    given = {key: str(value["string_value"]) for key, value in config.get("parameters", {}).items()
             if not key.startswith(_OWN_PREFIX)}  # fmt: skip
    known = _LIMITS | {_CONCEPT_SERIES}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise ValueError(
            f"unknown parameter {', '.join(map(repr, unknown))} in config.pbtxt; "
            f"the salf_encoded backend reads {', '.join(sorted(known))}"
        )
    numbers = {key: _positive(key, text) for key, text in given.items()}
    series = numbers.pop(_CONCEPT_SERIES, DEFAULT_CONCEPT_SERIES)
    instances = sum(int(group.get("count", 1)) for group in config.get("instance_group", [])) or 1
    return Settings(PictureLimits(**numbers), max(1, series // instances))


def _positive(key: str, text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"parameter {key!r} must be a whole number of 1 or more, but is {text!r}")
    return int(text)
