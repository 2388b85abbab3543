"""The report as one HTML file that needs nothing else: styles, charts and pictures are inside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import cycle

import jinja2

from salf_training.evaluation.document import EvaluationReport, Segmentation, Verdict
from salf_training.evaluation.showing import Shown

#: Chart size and margins, in the SVG's own units.
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 420, 220, 38, 28
_LINE_COLOURS = ("#2563eb", "#7c3aed", "#d97706", "#059669", "#9ca3af", "#db2777")
_FEW_CONCEPTS = 12


@dataclass(frozen=True)
class Line:
    """One line of a chart: (x, y) pairs, y in 0..1."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class DrawnLine:
    """A line in the chart's units."""

    name: str
    colour: str
    points: str


@dataclass(frozen=True)
class Tick:
    """A number beside an axis, at a place in the chart's units."""

    place: float
    label: str


@dataclass(frozen=True)
class Chart:
    """What the template draws."""

    label: str
    x_title: str
    lines: tuple[DrawnLine, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    floor: int = _HEIGHT - _BOTTOM


def render(report: EvaluationReport, shown: Shown) -> str:
    """The report for people, as HTML."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)  # fmt: skip
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    source = resources.files("salf_training.evaluation").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        report=report,
        shown=shown,
        best=best_methods(report.segmentation),
        verdicts=[sentence(verdict) for verdict in report.ahead],
        accuracy_chart=_accuracy_chart(report),
        deletion_chart=_curve_chart(report, "deletion", "Deletion: lower is better"),
        insertion_chart=_curve_chart(report, "insertion", "Insertion: higher is better"),
        best_concepts=report.encoder_similarity[:_FEW_CONCEPTS],
        worst_concepts=report.encoder_similarity[_FEW_CONCEPTS:][-_FEW_CONCEPTS:],
        mean_similarity=_mean([one.similarity for one in report.encoder_similarity]),
    )


def best_methods(segmentation: Mapping[str, Segmentation]) -> dict[str, str]:
    """Figure -> the method with the largest value."""
    if not segmentation:
        return {}
    return {
        name: max(segmentation, key=lambda method: float(getattr(segmentation[method], name)))
        for name in Segmentation.model_fields
    }


def sentence(verdict: Verdict) -> str:
    """One line that hides nothing: where the model is ahead and where it is not."""
    words = {
        "pixel_accuracy": "pixel accuracy",
        "mean_iou": "mIoU",
        "average_precision": "mAP",
        "pixel_accuracy_same_area": "pixel accuracy (same area)",
        "mean_iou_same_area": "mIoU (same area)",
        "pixel_accuracy_chosen_line": "pixel accuracy (chosen line)",
        "mean_iou_chosen_line": "mIoU (chosen line)",
    }
    ahead = [text for name, text in words.items() if getattr(verdict, name)]
    behind = [text for name, text in words.items() if not getattr(verdict, name)]
    parts = [f"ahead of {verdict.over} in {', '.join(ahead)}"] if ahead else []
    parts += [f"not ahead of {verdict.over} in {', '.join(behind)}"] if behind else []
    return f"SALF-CBM is {'; '.join(parts)}."


def chart(label: str, x_title: str, lines: Sequence[Line], *, x_ticks: Mapping[float, str]) -> Chart:
    """Scale lines into a chart; the y axis spans what is drawn, in steps of a tenth.

    Args:
        label: what the chart shows.
        x_title: below the x axis.
        lines: one or more, none empty.
        x_ticks: x -> its label; the first and the last are the ends of the axis.
    """
    values = [y for line in lines for _, y in line.points]
    low, high = min(values), max(values)
    bottom, top = min(int(low * 10), 9) / 10, min(1.0, (int(high * 10) + 1) / 10)
    left, right = min(x_ticks), max(x_ticks)

    def across(x: float) -> float:
        return _LEFT + (x - left) / (right - left) * (_WIDTH - _LEFT - 12)

    def down(y: float) -> float:
        return 10 + (top - y) / (top - bottom) * (_HEIGHT - _BOTTOM - 10)

    steps = round((top - bottom) * 10)
    return Chart(
        label=label,
        x_title=x_title,
        lines=tuple(
            DrawnLine(line.name, colour, " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in line.points))
            for line, colour in zip(lines, cycle(_LINE_COLOURS), strict=False)
        ),
        x_ticks=tuple(Tick(across(x), text) for x, text in x_ticks.items()),
        y_ticks=tuple(
            Tick(down(bottom + step / 10), f"{round(100 * bottom) + 10 * step}")
            for step in range(0, steps + 1, max(1, steps // 5))
        ),
    )


def _accuracy_chart(report: EvaluationReport) -> Chart | None:
    refitted = report.accuracy.refitted
    if refitted is None or len({point.concepts_per_class for point in refitted.curve}) < 2:
        return None
    by_nec = sorted((point.concepts_per_class, point.accuracy) for point in refitted.curve)
    first, last = by_nec[0][0], by_nec[-1][0]
    lines = [Line("SALF-CBM, sparse", tuple(by_nec))]
    lines.append(Line("SALF-CBM, dense", ((first, refitted.dense), (last, refitted.dense))))
    if report.accuracy.backbone is not None:
        lines.append(Line("backbone", ((first, report.accuracy.backbone), (last, report.accuracy.backbone))))
    return chart("Accuracy in %", "concepts per class (NEC)", lines, x_ticks={x: f"{x:.0f}" for x, _ in by_nec})


def _curve_chart(report: EvaluationReport, which: str, label: str) -> Chart | None:
    if not report.faithfulness:
        return None
    lines = []
    for method, found in report.faithfulness.items():
        values: tuple[float, ...] = getattr(found, which)
        lines.append(Line(method, tuple((step / (len(values) - 1), y) for step, y in enumerate(values))))
    return chart(label, "share of pixels", lines, x_ticks={0.0: "0", 0.5: "50 %", 1.0: "100 %"})


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
