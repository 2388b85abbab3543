"""Two explanations side by side: why A and not B, and what changed since the last version."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from salf_client.errors import NotComparableError
from salf_client.findings import ConceptChange

if TYPE_CHECKING:
    from salf_client.explanation import Explanation


@dataclass(frozen=True, slots=True)
class Comparison:
    """How one explanation's logit comes from another's.

    `before.logit + sum of changes + rest_change + bias_change` is `after.logit`, exactly up to float32's rounding: a
    concept that only one of them shows counts there in full, and in the other's rest.

    Attributes:
        title: which two.
        changes: by falling size; of every concept that either shows.
        rest_change: of the concepts that neither shows, and of what one of them does not show.
        bias_change: of the bias.
        logit_change: of the logit: the sum of all the above.
    """

    title: str
    changes: tuple[ConceptChange, ...]
    rest_change: float
    bias_change: float
    logit_change: float

    def __str__(self) -> str:
        def shown(value: float | None) -> str:
            return "   hidden" if value is None else f"{value:+9.3f}"

        lines = [self.title]
        lines += [f"  {shown(one.before)} -> {shown(one.after)}  {one.name}" for one in self.changes]
        lines += [
            f"  {self.rest_change:+9.3f}  other concepts",
            f"  {self.bias_change:+9.3f}  bias",
            f"  {self.logit_change:+9.3f}  = change of the logit",
        ]
        return "\n".join(lines)


def compare(before: "Explanation", after: "Explanation") -> Comparison:
    """Compare two explanations of one picture, or of one class.

    Raises:
        NotComparableError: neither the class nor the picture's size is the same.
    """
    if before.target != after.target and before.source_size != after.source_size:
        raise NotComparableError(
            f"one explanation is of {before.target} and the other of {after.target}, of pictures of different size; "
            f"compare two classes of one picture, or one class in two pictures or versions"
        )
    old = {concept.name: concept.contribution for concept in before.concepts}
    new = {concept.name: concept.contribution for concept in after.concepts}
    changes = [ConceptChange(name, old.get(name), new.get(name)) for name in old | new]
    return Comparison(
        title=f"{_named(before)} -> {_named(after)}",
        changes=tuple(sorted(changes, key=lambda one: -abs(one.change))),
        rest_change=after.rest_contribution - before.rest_contribution,
        bias_change=after.bias - before.bias,
        logit_change=after.logit - before.logit,
    )


def _named(explanation: "Explanation") -> str:
    return f"{explanation.target} ({explanation.model} version {explanation.version})"
