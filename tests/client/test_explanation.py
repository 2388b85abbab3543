"""What an explanation gives: heatmaps, its plain form, text, HTML and plots."""

import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from salf_client import AbsentConceptError, Client, Explanation, InvalidPictureError
from salf_client.testing import mock_server
from salf_contract import prepare


def test_absent_concepts_have_no_place(client, picture):
    explanation = client.explain(picture)
    absent = next(concept for concept in explanation.concepts if not concept.present)
    present = next(concept for concept in explanation.concepts if concept.present)
    assert absent.wording == f"no {absent.name}"
    with pytest.raises(AbsentConceptError, match="allow_absent"):
        explanation.heatmap(absent)
    assert explanation.heatmap(absent, allow_absent=True).shape == (60, 100)
    heat = explanation.heatmap(present.name)
    # The model sees 32 x 48, so 90 of the 100 columns: 5 to 95.
    assert np.isnan(heat[:, :5]).all()
    assert np.isnan(heat[:, 95:]).all()
    assert np.isfinite(heat[:, 5:95]).all()
    with pytest.raises(AbsentConceptError, match="not among"):
        explanation.heatmap("zebra")


def test_explanations_cannot_be_changed(client, picture):
    explanation = client.explain(picture)
    with pytest.raises(AttributeError):
        explanation.label = "other"
    for array in (explanation.logits, explanation.concepts[0].map):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_the_plain_form_is_json(client, picture):
    explanation = client.explain(picture, top=2)
    plain = json.loads(json.dumps(explanation.to_dict(maps=True)))
    assert plain["label"] == explanation.label
    assert [concept["name"] for concept in plain["concepts"]] == [concept.name for concept in explanation.concepts]
    assert np.array(plain["concepts"][0]["map"]).shape == (3, 5)
    assert "map" not in explanation.to_dict()["concepts"][0]


def test_text_and_html_show_every_concept(client, picture):
    explanation = client.explain(picture, target=0)
    for text in (str(explanation), explanation._repr_html_()):
        assert all(concept.wording in text for concept in explanation.concepts)
        assert "why not class 0" in text or explanation.label_index == 0
    assert "<img" in explanation._repr_html_()


@pytest.mark.parametrize("size", [(100, 60), (60, 300), (48, 32)])
def test_plots_are_drawn_for_any_shape_of_picture(client, tmp_path, size):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    path = tmp_path / "plot.png"
    figure = client.explain(image).plot(path=path)
    assert Image.open(path).width > 1000
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    bars = figure.axes[-1]
    labels = [label.get_window_extent(renderer) for label in bars.get_yticklabels()]
    numbers = [text.get_window_extent(renderer) for text in bars.texts]
    assert not any(a.overlaps(b) for a in labels for b in numbers)
    left_of_labels = min(label.x0 for label in labels)
    assert all(axes.get_window_extent(renderer).x1 < left_of_labels for axes in figure.axes[:-1])


@pytest.mark.parametrize("maps", [True, False])
@pytest.mark.parametrize("with_picture", [True, False])
def test_what_was_stored_without_maps_or_picture_shows_the_rest(client, picture, tmp_path, maps, with_picture):
    explanation = client.explain(picture)
    assert any(concept.present for concept in explanation.concepts)
    stored = Explanation.from_json(explanation.to_json(maps=maps, picture=with_picture))
    html = stored._repr_html_()
    assert all(concept.wording in html for concept in explanation.concepts)
    present = sum(concept.present for concept in explanation.concepts)
    assert html.count("<img") == (0 if not with_picture else 1 + min(4, present) if maps else 1)
    figure = stored.plot(picture, tmp_path / "plot.png")
    told = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert any("without maps" in text for text in told) != maps


def test_a_picture_that_was_prepared_by_the_caller_is_explained_in_a_notebook(client, picture):
    explanation = client.explain(prepare(picture, client.model().preparation))
    assert "<img" not in explanation._repr_html_()
    with pytest.raises(InvalidPictureError, match="pass the picture itself"):
        explanation.plot()


def test_names_are_drawn_as_they_are():
    names = ["$\\frac{$", "a $5 bill and a $10 bill", "$$", "<b>"]
    with mock_server(classes=["$^{$", "$$"], concepts=names) as server, Client(server.address) as client:
        explanation = client.explain(np.zeros((8, 8, 3), np.uint8))
        figure = explanation.plot()
    FigureCanvasAgg(figure).draw()
    drawn = {label.get_text() for label in figure.axes[-1].get_yticklabels()}
    assert {concept.wording for concept in explanation.concepts} <= drawn
    assert not any(text.get_parse_math() for text in figure.findobj(Text) if "$" in text.get_text())
