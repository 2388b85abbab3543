"""Edits of a what-if question."""

from dataclasses import dataclass, field
from numbers import Real

from salf_client.errors import InvalidEditError
from salf_client.places import Place

EVERYWHERE = Place()
#: Beyond anything that a score can be, and far from where float32 ends, in which the server computes.
_STRONGEST = 1e6


@dataclass(frozen=True)
class Edit:
    """One concept made stronger or weaker.

    Attributes:
        concept: its name or index.
        strength: in standard deviations of training pictures, a million at most; negative takes away.
        where: a place on the source picture; everywhere by default.
    """

    concept: str | int
    strength: float
    where: Place = field(default=EVERYWHERE)

    def __post_init__(self) -> None:
        strength: object = self.strength  # whatever untyped callers give
        where: object = self.where
        # Written so that NaN fails.
        if isinstance(strength, bool) or not isinstance(strength, Real) or not abs(self.strength) <= _STRONGEST:
            raise InvalidEditError(
                f"the strength of an edit is a finite number from {-_STRONGEST:g} to {_STRONGEST:g}, "
                f"but this one is {strength!r}"
            )
        if not isinstance(where, Place):
            raise InvalidEditError(f"the where of an edit is a Place, but this one is a {type(where).__name__}")


@dataclass(frozen=True)
class Removal:
    """One concept taken back to what training pictures show on average: its score becomes 0 if it is above.

    Attributes:
        concept: its name or index.
    """

    concept: str | int
