"""Explanations and models as tables for the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from salf_client import ConceptEvidence, Explanation, ModelInfo

_BAR_CELLS = 16
_FOR, _AGAINST, _FAINT = "blue", "dark_orange", "dim"


def explanation_table(
    explanation: "Explanation", *, title: str, concepts: "Sequence[ConceptEvidence] | None" = None
) -> Group:
    """One explanation: class, contributions as bars, and what is not shown.

    Args:
        explanation: to show.
        title: stands above it, such as the picture's path.
        concepts: those of its concepts to show, the others go to the rest; None shows all.
    """
    listed = explanation.concepts if concepts is None else concepts
    unlisted = sum(concept.contribution for concept in explanation.concepts if concept not in listed)
    label, probability = explanation.label, explanation.predicted_probability
    head = Text.assemble((title, "bold"), "  ", (f"{label} {probability:.1%}", "bold green"))
    if explanation.target_index != explanation.label_index:
        head.append(f"  why not {explanation.target} ({explanation.probability:.1%})?", style="bold")
    head.append(f"  {explanation.latency_ms:.1f} ms", style=_FAINT)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(justify="right", no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    rows = [(concept.wording, concept.contribution, "") for concept in listed]
    rows += [("other concepts", explanation.rest_contribution + unlisted, _FAINT), ("bias", explanation.bias, _FAINT)]
    reach = max((abs(value) for _, value, _ in rows), default=0.0) or 1.0
    for name, value, style in rows:
        bar = "█" * max(1, round(abs(value) / reach * _BAR_CELLS)) if value else ""
        table.add_row(Text(name, style=style), f"{value:+.2f}", Text(bar, style=_FOR if value > 0 else _AGAINST))
    shown = Text("" if concepts is not None else f"shown: {explanation.coverage:.0%} of the evidence", style=_FAINT)
    table.add_row(Text(f"= logit of {explanation.target}", style=_FAINT), f"{explanation.logit:+.2f}", shown)
    return Group(head, table)


def models_table(models: "Sequence[ModelInfo]") -> Table:
    """The models of a server, one a row."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "versions", "backend", "input", "classes", "concepts", "top", "pooling"):
        table.add_column(heading)
    for model in models:
        height, width = model.input_size
        versions = ", ".join(map(str, model.versions))
        numbers = (str(len(model.classes)), str(len(model.concepts)), str(model.top))
        table.add_row(escape(model.name), versions, model.backend, f"{height} x {width}", *numbers, model.pooling)
    return table
