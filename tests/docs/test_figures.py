"""Figures in the documentation are those of the committed model card, evaluation and benchmarks."""

import json
import re

import pytest
from doc_pages import page_text

from demonstration.paths import CHECKPOINT, ROOT


def table_rows(markdown: str, heading: str) -> dict[str, str]:
    """First column -> second column, as plain text, of the table that begins with a heading row."""
    lines = markdown.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(heading))
    rows: dict[str, str] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[cells[0]] = cells[1]
    return rows


def figures_of_the_card() -> dict[str, str]:
    """README's rows about the demonstration model, from the committed model card."""
    card = json.loads((CHECKPOINT / "card.json").read_text())
    measured = card["evaluation"]
    found = measured["localisation"]
    curve = " / ".join(f"{point['accuracy']:.1%}" for point in measured["nec_curve"])
    return {
        "right on held-out pictures, backbone's own classifier": f"{measured['backbone_accuracy']:.1%}",
        "right on held-out pictures, SALF-CBM": f"{measured['accuracy']:.1%}",
        "concepts per class (NEC) of that model": f"{card['concepts_per_class']:.1f}",
        "right with at most 1 / 2 / 3 / 5 / 10 / 30 concepts per class": curve,
        "right with all concepts (dense)": f"{measured['dense_accuracy']:.1%}",
        "map's maximum on the object, concepts that decide the class": f"{found['deciding_concepts']:.1%}",
        "map's maximum on the object, all drawn objects": f"{found['all_objects']:.1%}",
        "baselines for that: centre point / random point": (
            f"{found['centre_point']:.1%} / {found['random_point']:.1%}"
        ),
        "evidence that says the truth about its picture": f"{measured['naming']['true']:.1%}",
        "evidence called present that lies on what it names": f"{measured['naming']['well_placed']:.1%}",
    }


def figures_of_the_evaluation() -> dict[str, str]:
    """README's rows about class maps, from the committed evaluation.json."""
    found = json.loads((ROOT / "demonstration" / "evaluation.json").read_text())["segmentation"]
    return {
        f"class maps against masks, {method}: pixel accuracy / mIoU / mAP": " / ".join(
            f"{found[method][name]:.1%}" for name in ("pixel_accuracy", "mean_iou", "average_precision")
        )
        for method in ("SALF-CBM", "Grad-CAM", "Integrated gradients")
    }


def figures_of_the_benchmarks() -> dict[str, str]:
    """README's rows about cost, from what benchmarks/README.md documents."""
    text = page_text("benchmarks/README.md")

    def documented(pattern: str) -> str:
        found = re.search(pattern, text)
        assert found is not None, f"benchmarks/README.md has no {pattern}"
        return found[1]

    return {
        "explained answer over bare prediction, time, batch 1": documented(
            r"`explain_over_logits_b1`[^|]*\| ([\d.]+) \|"
        ),
        "explained answer over bare prediction, time, batch 8": documented(
            r"`explain_over_logits_b8`[^|]*\| ([\d.]+) \|"
        ),
        "the same if all maps were computed, batch 8": documented(r"`all_maps_over_logits_b8`[^|]*\| ([\d.]+) \|"),
        "bytes of an explained answer": documented(r"`default_answer_bytes` ([\d,]+)"),
        "bytes of an answer with all maps": documented(r"`all_maps_bytes` ([\d,]+)"),
    }


def test_the_readme_shows_no_other_figures_than_card_and_benchmarks(model_is_committed: bool) -> None:
    shown = table_rows(page_text("README.md"), "| figure |")
    card, benchmarks = figures_of_the_card(), figures_of_the_benchmarks() | figures_of_the_evaluation()
    assert shown.keys() == card.keys() | benchmarks.keys()
    assert {name: shown[name] for name in benchmarks} == benchmarks
    if model_is_committed:
        assert {name: shown[name] for name in card} == card
    else:
        # Retrained: the same seed promises the same accuracy to within a point.
        name = "right on held-out pictures, SALF-CBM"
        assert abs(float(shown[name].rstrip("%")) - float(card[name].rstrip("%"))) <= 1.0, "update README.md"


@pytest.mark.slow
def test_the_answer_size_is_what_the_readme_says() -> None:
    from benchmarks.answer_size import measure

    figures = measure(quick=True).figures
    shown = table_rows(page_text("README.md"), "| figure |")
    assert shown["bytes of an explained answer"] == f"{figures['default_answer_bytes']:,.0f}"
    assert shown["bytes of an answer with all maps"] == f"{figures['all_maps_bytes']:,.0f}"


def test_the_page_on_evaluation_shows_the_committed_evaluation_of_the_committed_model(
    model_is_committed: bool,
) -> None:
    found = json.loads((ROOT / "demonstration" / "evaluation.json").read_text())
    if model_is_committed:
        assert found["weights_sha256"] == json.loads((CHECKPOINT / "card.json").read_text())["weights_sha256"]
    text = page_text("docs/evaluation.md")
    by_heatmap = [line for line in text.splitlines() if line.startswith("| ")]
    for method, figures in found["segmentation"].items():
        cells = [f"{value:.1%}" for value in figures.values()]
        faithful = found["faithfulness"].get(method)  # none for a map that differs only in sharpness
        cells += [f"{faithful[f'{way}_area']:.3f}" if faithful else "" for way in ("deletion", "insertion")]
        assert f"| {method} | {' | '.join(cells)} |" in by_heatmap, "update docs/evaluation.md"
    accuracy = found["accuracy"]
    points = [f"{point['concepts_per_class']:.1f}: {point['accuracy']:.1%}" for point in accuracy["refitted"]["curve"]]
    for said in (*points, f"dense: {accuracy['refitted']['dense']:.1%}", f"backbone: {accuracy['backbone']:.1%}"):
        assert said in text, said
    for places in ("concept_places", "deciding_places"):
        named = [found[places][name] for name in ("pointing_game", "iou", "iou_same_area", "energy_inside")]
        assert " | ".join(f"{value:.1%}" for value in named) in text, places
