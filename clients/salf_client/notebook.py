"""Explanations as HTML for notebooks, with Pillow alone."""

import base64
import html
import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from salf_client.overlays import AGAINST, FOR, seen_only, with_heatmap, with_place

if TYPE_CHECKING:
    from salf_client.explanation import Explanation

_SIDE = 168
_BAR_WIDTH = 130


def explanation_html(explanation: "Explanation") -> str:
    """The picture, the strongest present concepts over it, and a table of contributions; needs no other file.

    Without a picture, as of a stored explanation, the table alone.
    """
    figures = []
    if explanation.kept.exists:
        picture = explanation.picture
        figures.append(_figure(seen_only(picture, explanation), "the picture", "inherit"))
        for concept in with_place(explanation):
            overlay = with_heatmap(picture, explanation, concept)
            figures.append(_figure(overlay, concept.name, _colour(concept.contribution)))
    lines = [(concept.wording, concept.contribution, 1.0) for concept in explanation.concepts]
    lines += [("other concepts", explanation.rest_contribution, 0.45), ("bias", explanation.bias, 0.45)]
    reach = max(abs(value) for _, value, _ in lines) or 1.0
    rows = "".join(_row(name, value, reach=reach, opacity=opacity) for name, value, opacity in lines)
    title = f"{html.escape(explanation.label)}, {explanation.predicted_probability:.1%}"
    if explanation.target_index != explanation.label_index:
        title += f" (why not {html.escape(explanation.target)}, {explanation.probability:.1%}?)"
    return (
        f'<div style="font-family:sans-serif"><div style="font-size:1.3em;font-weight:bold">{title}</div>'
        f'<div style="opacity:.65;margin-bottom:6px">{html.escape(explanation.model)} version {explanation.version}, '
        f"the concepts shown are {explanation.coverage:.0%} of the evidence</div>"
        f'<div style="display:flex;flex-wrap:wrap;gap:8px">{"".join(figures)}</div>'
        f'<table style="border-collapse:collapse;margin-top:8px">{rows}'
        f'<tr><td style="text-align:right;padding:2px 8px">= logit of {html.escape(explanation.target)}</td><td></td>'
        f'<td style="text-align:right">{explanation.logit:+.2f}</td></tr></table></div>'
    )


def _figure(pixels: NDArray[np.uint8], caption: str, colour: str) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((2 * _SIDE, 2 * _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure style="margin:0;text-align:center;color:{colour}">'
        f'<img src="data:image/jpeg;base64,{data}" alt="{html.escape(caption)}" style="max-height:{_SIDE}px">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _row(name: str, value: float, *, reach: float, opacity: float) -> str:
    width = round(abs(value) / reach * _BAR_WIDTH)
    offset = _BAR_WIDTH if value >= 0 else _BAR_WIDTH - width
    bar = (
        f'<div style="width:{2 * _BAR_WIDTH}px"><div style="margin-left:{offset}px;width:{width}px;height:.9em;'
        f'background:{_colour(value)};opacity:{opacity}"></div></div>'
    )
    return (
        f'<tr><td style="text-align:right;padding:2px 8px">{html.escape(name)}</td><td>{bar}</td>'
        f'<td style="text-align:right">{value:+.2f}</td></tr>'
    )


def _colour(contribution: float) -> str:
    return FOR if contribution > 0 else AGAINST
