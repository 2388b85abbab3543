"""Explanations as matplotlib figures: what was seen, where, and how much it counted."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from salf_client.errors import PlotUnavailableError
from salf_client.overlays import AGAINST, FOR, seen_only, with_heatmap, with_place
from salf_client.pictures import Picture, Source

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from salf_client.explanation import ConceptEvidence, Explanation

_INK = "#222222"
_FAINT = "#777777"
_MINUS = "\N{MINUS SIGN}"
# The layout, in inches.
_WIDTH, _COLUMN, _GAP, _NAMES, _MARGIN = 13.0, 3.75, 0.25, 1.95, 0.2
_ABOVE, _BELOW = 0.95, 0.55
_NAME_WIDTH = 26
#: Names may hold dollar signs, between which matplotlib would read mathematics.
_AS_IT_IS: dict[str, Any] = {"parse_math": False}


def draw(explanation: "Explanation", *, image: Picture | None = None, path: str | Path | None = None) -> "Figure":
    """Draw an explanation: the picture, the strongest present concepts over it, and the contributions as bars.

    Args:
        explanation: to draw.
        image: the source at full size; None takes the copy that the explanation keeps.
        path: where to save the figure as well.

    Returns:
        A matplotlib figure, 13 inches wide.

    Raises:
        PlotUnavailableError: matplotlib is not installed.
        InvalidPictureError: `image` cannot be read.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotUnavailableError("plots need matplotlib; install it with: pip install 'salf[plot]'") from error
    picture = explanation.picture if image is None else Source(image).rgb
    placed = with_place(explanation)

    lines = len(explanation.concepts) + 2
    height = max(_COLUMN, 0.37 * lines) + _ABOVE + _BELOW
    figure = Figure(figsize=(_WIDTH, height), dpi=110, facecolor="white")
    room = height - _ABOVE - _BELOW
    aspect = picture.width / picture.height
    side = _fitted(aspect, _COLUMN, room)
    _draw_picture(_axes_at(figure, _MARGIN, _ABOVE, *side), explanation, picture)
    _draw_maps(figure, explanation, picture, placed, room=room)
    bars_left = _MARGIN + 2 * (_COLUMN + _GAP) + _NAMES
    _draw_bars(_axes_at(figure, bars_left, _ABOVE, _WIDTH - bars_left - _MARGIN, min(room, 0.55 * lines)), explanation)
    _draw_title(figure, explanation)
    if path is not None:
        figure.savefig(path)
    return figure


def _draw_title(figure: "Figure", explanation: "Explanation") -> None:
    if explanation.target_index == explanation.label_index:
        title = f"{explanation.label}, {explanation.probability:.1%}"
    else:
        title = f"why not {explanation.target}? ({explanation.probability:.1%})"
    across, down = figure.get_size_inches()
    left = _MARGIN / across
    figure.text(left, 1 - 0.24 / down, title, fontsize=19, fontweight="bold", color=_INK, va="center", **_AS_IT_IS)
    facts = [
        f"predicted: {explanation.label} {explanation.predicted_probability:.1%}"
        if explanation.target_index != explanation.label_index
        else "",
        f"the concepts shown are {explanation.coverage:.0%} of the evidence",
        f"model {explanation.model}, version {explanation.version}",
    ]
    figure.text(
        left,
        1 - 0.56 / down,
        "   ·   ".join(fact for fact in facts if fact),
        fontsize=10.5,
        color=_FAINT,
        va="center",
        **_AS_IT_IS,
    )


def _draw_picture(axes: "Axes", explanation: "Explanation", picture: Image.Image) -> None:
    axes.imshow(seen_only(picture, explanation), interpolation="bilinear", aspect="auto")
    left, top, right, bottom = explanation.crop_box
    width, height = explanation.source_size
    whole = left < 1 and top < 1 and right > width - 1 and bottom > height - 1
    axes.set_title(
        "the picture" if whole else "the picture (pale: not seen)", fontsize=11, color=_INK, pad=6, loc="left"
    )
    _bare(axes)


def _draw_maps(
    figure: "Figure",
    explanation: "Explanation",
    picture: Image.Image,
    placed: "list[ConceptEvidence]",
    *,
    room: float,
) -> None:
    start = _MARGIN + _COLUMN + _GAP
    if not placed:
        axes = _axes_at(figure, start, _ABOVE, _COLUMN, _COLUMN)
        axes.axis("off")
        is_any_present = any(concept.present for concept in explanation.concepts)
        why = "this explanation was stored without maps" if is_any_present else "none of the concepts shown is present"
        message = f"{why},\nso there is no place to mark"
        axes.text(0.5, 0.5, message, ha="center", va="center", fontsize=11, color=_FAINT)
        return
    columns = 1 if len(placed) == 1 else 2
    rows = -(-len(placed) // columns)
    between, caption = 0.15, 0.3
    width, height = _fitted(
        picture.width / picture.height,
        (_COLUMN - (columns - 1) * between) / columns,
        (room - (rows - 1) * caption) / rows,
    )
    for position, concept in enumerate(placed):
        row, column = divmod(position, columns)
        left, top = start + column * (width + between), _ABOVE + row * (height + caption)
        axes = _axes_at(figure, left, top, width, height)
        axes.imshow(with_heatmap(picture, explanation, concept), interpolation="bilinear", aspect="auto")
        name = _short(concept.name, max(8, round(11 * width)))
        colour = _colour(concept.contribution)
        axes.set_title(name, fontsize=10.5, color=colour, fontweight="bold", pad=4, loc="left", **_AS_IT_IS)
        _bare(axes)


def _draw_bars(axes: "Axes", explanation: "Explanation") -> None:
    values = [concept.contribution for concept in explanation.concepts]
    names = [_short(concept.wording) for concept in explanation.concepts]
    values += [explanation.rest_contribution, explanation.bias]
    names += ["other concepts", "bias"]
    shown = len(explanation.concepts)
    places: NDArray[np.float64] = np.arange(len(values), dtype=np.float64)
    places[shown:] += 0.35  # a gap before what no single concept said
    bars = axes.barh(places, values, height=0.68, color=[_colour(value) for value in values])
    for bar in bars[shown:]:
        bar.set_alpha(0.45)
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f"{value:+.2f}".replace("-", _MINUS),
            (value, place),
            xytext=(4 if value >= 0 else -4, 0),
            textcoords="offset points",
            ha="left" if value >= 0 else "right",
            va="center",
            fontsize=9.5,
            color=_INK,
        )
    axes.axvline(0, color=_INK, linewidth=0.8)
    low, high = min(0.0, *values), max(0.0, *values)
    # Room for the numbers beside the bars, which differ little in width.
    room = 0.3 * max(high - low, 1e-6)
    axes.set_xlim(low - (room if low < 0 else 0.1 * room), high + (room if high > 0 else 0.1 * room))
    axes.set_ylim(places[-1] + 0.6, -0.6)
    axes.set_yticks(places, names, fontsize=10.5, color=_INK, **_AS_IT_IS)
    axes.tick_params(axis="both", length=0)
    axes.tick_params(axis="x", labelsize=9, labelcolor=_FAINT)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_title(f"for and against {_short(explanation.target, 22)}", fontsize=11, color=_INK, pad=6, **_AS_IT_IS)
    axes.set_xlabel(f"sum = logit {explanation.logit:.2f}".replace("-", _MINUS), fontsize=10, color=_FAINT)
    _draw_legend(axes)


def _draw_legend(axes: "Axes") -> None:
    from matplotlib.patches import Patch

    figure = axes.figure
    figure.legend(
        handles=[Patch(color=FOR, label="speaks for"), Patch(color=AGAINST, label="speaks against")],
        loc="upper right",
        bbox_to_anchor=(0.98, 0.99),
        ncols=2,
        frameon=False,
        fontsize=10,
        handlelength=1.0,
        handleheight=1.0,
    )


def _axes_at(figure: "Figure", left: float, top: float, width: float, height: float) -> "Axes":
    """Axes at a place in inches from the figure's upper left corner."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def _fitted(aspect: float, width: float, height: float) -> tuple[float, float]:
    """The largest (width, height) of this aspect ratio that fits."""
    return (width, width / aspect) if width / aspect <= height else (height * aspect, height)


def _bare(axes: "Axes") -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _colour(contribution: float) -> str:
    return FOR if contribution > 0 else AGAINST


def _short(name: str, width: int = _NAME_WIDTH) -> str:
    return textwrap.shorten(name, width, placeholder="…") if len(name) > width else name
