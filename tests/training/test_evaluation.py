"""`salf evaluate` from a checkpoint to a report, on a few scenes; explainers against their formulas."""

import json
import re
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from picture_files import ColourEncoder, write_coloured_squares
from typer.testing import CliRunner

from salf_cli.main import app
from salf_contract import Preparation
from salf_training import operations
from salf_training.backbone import BackboneSettings, build_backbone, feature_shape
from salf_training.checkpoint import Checkpoint, ModelCard, load_checkpoint, save_checkpoint
from salf_training.embeddings import cached_prompt_embeddings, local_similarities
from salf_training.errors import DataError
from salf_training.evaluation.document import EvaluationReport
from salf_training.evaluation.evaluating import EvaluationSettings, evaluate_checkpoint
from salf_training.evaluation.explainers import (
    CENTRE,
    EVIDENCE,
    EXACT,
    GRAD_CAM,
    GRAD_CAM_CUBED,
    INTEGRATED,
    PAPER,
    OwnClassifier,
    explainers,
    sharpened,
)
from salf_training.evaluation.following import EncoderView, concept_similarities
from salf_training.evaluation.rendering import render
from salf_training.evaluation.showing import Shown
from salf_training.features import compute_features, features_on_grid
from salf_training.head import HeadTraining
from salf_training.model import SalfModel
from salf_training.prompts import CircleSettings
from salf_training.scenes import CLASSES, DRAWN_OBJECTS, write_scenes

SIDE = 64
FEW = EvaluationSettings(gradient_steps=4, faithfulness_pictures=2, faithfulness_steps=2, worst=2, compared=1)


def checkpoint_of(classes: tuple[str, ...], concepts: tuple[str, ...], *, classifier: bool = True) -> Checkpoint:
    """A model of random weights: what it says means nothing, but every path is taken."""
    settings = BackboneSettings(name="test_resnet", options={"output_stride": 16})
    torch.manual_seed(0)
    backbone = build_backbone(settings).eval()
    channels, rows, columns = feature_shape(backbone, height=SIDE, width=SIDE)
    model = SalfModel(backbone, channels=channels, concepts=len(concepts), classes=len(classes)).eval()
    for name, buffer in model.named_buffers(recurse=False):
        if name in ("concept_weight", "head_weight", "head_bias", "score_mean"):
            buffer.copy_(torch.randn(buffer.shape))
        if name.startswith("classifier") and classifier:
            buffer.copy_(torch.randn(buffer.shape))
    model.pixel_mean.fill_(0.5)
    model.pixel_std.fill_(0.5)
    card = ModelCard(
        backbone=settings,
        preparation=Preparation(height=SIDE, width=SIDE),
        pixel_mean=(0.5, 0.5, 0.5),
        pixel_std=(0.5, 0.5, 0.5),
        feature_shape=(channels, rows, columns),
        grid=(rows, columns),
        concepts_per_class=float(len(concepts)),
    )
    return Checkpoint(model, card, classes, concepts)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder / "held_out", count=13, first_seed=100, workers=1)
    write_scenes(folder / "train", count=60, first_seed=200, workers=1)
    checkpoint = checkpoint_of(tuple(sorted(CLASSES)), (*DRAWN_OBJECTS, "zebra"))
    checkpoint.model.head_weight[:, DRAWN_OBJECTS.index("tree")] = 0.0
    save_checkpoint(folder / "checkpoint", checkpoint)
    return folder


@pytest.fixture(scope="module")
def written(scenes):
    few_steps = partial(HeadTraining, path_length=4, max_iterations=100)
    with pytest.MonkeyPatch.context() as patch:  # sixty pictures of a random model take a head thousands of steps
        patch.setattr("salf_training.evaluation.heads.HeadTraining", few_steps)
        result = CliRunner().invoke(
            app,
            [
                "evaluate", str(scenes / "checkpoint"), "--data", str(scenes / "held_out"), "--limit", "12",
                "--train-data", str(scenes / "train"), "--out", str(scenes / "out"), "--json",
            ],
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    return result, (scenes / "out" / "report.html").read_text()


class Reader(HTMLParser):
    """Checks that elements close in the order in which they opened, and notes what a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.loaded, self.images, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "line", "polyline"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                (self.images if value.startswith("data:image/jpeg;base64,") else self.loaded).append(value)

    def handle_endtag(self, tag):
        if tag not in ("line", "polyline"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_figures_are_written_for_programs(written, scenes):
    result, _ = written
    on_disk = EvaluationReport.model_validate_json((scenes / "out" / "evaluation.json").read_bytes())
    assert json.loads(result.stdout) == json.loads(on_disk.model_dump_json())
    assert on_disk.pictures == on_disk.segmented_pictures == 12
    assert set(on_disk.faithfulness) == {EVIDENCE, EXACT, PAPER, GRAD_CAM, INTEGRATED, CENTRE}
    assert set(on_disk.segmentation) == set(on_disk.faithfulness) | {GRAD_CAM_CUBED}
    assert [verdict.over for verdict in on_disk.ahead] == [GRAD_CAM, INTEGRATED]
    assert on_disk.concept_places.cases > on_disk.deciding_places.cases > 20
    assert on_disk.accuracy.refitted.training_pictures == 60
    assert len(on_disk.accuracy.refitted.curve) == 6
    assert [len(found.deletion) for found in on_disk.faithfulness.values()] == [11] * 6
    assert any("--encoder" in reason for reason in on_disk.left_out)
    assert not any("--train-data" in reason for reason in on_disk.left_out)


def test_the_report_is_one_whole_page_that_loads_nothing(written):
    reader = Reader()
    reader.feed(written[1])
    assert reader.open == []
    assert reader.loaded == []
    assert len(reader.images) >= 8 * 6
    assert not re.search(r"https?://|<script|url\(", written[1])
    words = " ".join(" ".join(reader.text).split())
    for heading in ("Accuracy", "Do concept maps lie", "Do class maps cover", "Heatmaps side by side",
                    "Does the probability follow", "The worst pictures", "Not measured"):  # fmt: skip
        assert heading in words
    assert "SALF-CBM is " in words, "the verdict is written out"


def test_names_cannot_break_the_page(scenes):
    checkpoint = load_checkpoint(scenes / "checkpoint")
    report, _ = evaluate_checkpoint(checkpoint, scenes / "held_out", name="<script>x</script>", settings=FEW)
    page = render(report, Shown((), ()))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_plain_image_folder_is_judged_by_accuracy_and_faithfulness_only(tmp_path):
    write_coloured_squares(tmp_path, per_class=2)
    checkpoint = checkpoint_of(("blue", "green", "yellow"), ("sail", "dog"), classifier=False)
    report, shown = evaluate_checkpoint(checkpoint, tmp_path, name="squares", settings=FEW)
    assert report.concept_places is None
    assert report.segmentation == {}
    assert report.ahead == ()
    assert report.accuracy.backbone is None
    assert report.accuracy.refitted is None
    assert set(report.faithfulness) == {EVIDENCE, EXACT, PAPER, CENTRE}
    assert len(report.left_out) == 4
    page = render(report, shown)
    assert "no training pictures were given" in page
    assert "Do class maps cover" not in page


def test_accuracy_is_the_share_of_right_answers(tmp_path):
    write_coloured_squares(tmp_path, per_class=3)
    checkpoint = checkpoint_of(("blue", "green", "yellow"), ("sail", "dog"))
    checkpoint.model.head_weight.zero_()
    checkpoint.model.head_bias.copy_(torch.tensor([0.0, 1.0, 0.0]))  # always green
    report, shown = evaluate_checkpoint(checkpoint, tmp_path, name="green", settings=FEW)
    assert report.accuracy.checkpoint == pytest.approx(1 / 3)
    assert report.accuracy.concepts_per_class == 0
    assert {(picture.predicted, picture.reasons) for picture in shown.worst} == {("green", ())}
    assert "green" not in {picture.truth for picture in shown.worst}


def test_explainers_are_their_formulas(scenes):
    model = checkpoint_of(CLASSES, DRAWN_OBJECTS).model
    pixels = torch.randint(0, 256, (3, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([2, 0, 5])
    found = {name: explain(pixels, targets) for name, explain in explainers(model, steps=40).items()}
    assert all(len(heatmaps) == 3 for heatmaps in found.values())
    with torch.inference_mode():
        answer = model(pixels)
        own = OwnClassifier(model)(model.normalise(pixels))
        nothing = OwnClassifier(model)(torch.zeros(1, 3, SIDE, SIDE))
    logits = answer.logits[torch.arange(3), targets]
    assert found[EXACT].mean(axis=(1, 2)) + model.head_bias[targets].numpy() == pytest.approx(logits.numpy(), rel=1e-4)
    for index, target in enumerate(targets.tolist()):
        maps = answer.maps[index : index + 1].numpy()
        head = {"weight": model.head_weight.numpy(), "target": target}
        statistics = {"mean": model.score_mean.numpy(), "std": model.score_std.numpy()}
        exact = operations.class_maps(maps, **head, **statistics)[0]
        evidence = operations.evidence_maps(maps, **head, **statistics)[0]
        paper = operations.contribution_weighted_maps(maps, answer.scores[index : index + 1].numpy(), **head)[0]
        assert np.abs(found[EXACT][index] - exact).max() < 1e-3 * np.abs(exact).max()
        assert np.abs(found[EVIDENCE][index] - evidence).max() < 1e-3 * np.abs(evidence).max()
        assert np.abs(found[PAPER][index] - paper).max() < 1e-3 * np.abs(paper).max()
        # Behind average pooling and a linear layer, Grad-CAM is the classifier at every cell, cut off at zero.
        features = answer.features[index].numpy()
        cam = np.einsum("c,chw->hw", model.classifier_weight[target].numpy(), features) / features[0].size
        assert np.abs(found[GRAD_CAM][index] - cam.clip(0)).max() < 1e-4 * max(1, np.abs(cam).max())
    assert np.array_equal(
        sharpened({GRAD_CAM: lambda *_: found[GRAD_CAM]})[GRAD_CAM_CUBED](pixels, targets), found[GRAD_CAM] ** 3
    )
    assert (found[INTEGRATED] >= 0).all()
    # Absolute values cannot sum to less than the difference that the attributions explain.
    difference = (own[torch.arange(3), targets] - nothing[0, targets]).abs().numpy()
    assert (found[INTEGRATED].sum(axis=(1, 2)) >= 0.9 * difference).all()
    assert np.unravel_index(found[CENTRE][0].argmax(), (SIDE, SIDE))[0] in (SIDE // 2 - 1, SIDE // 2)


def test_concepts_that_follow_the_encoder_are_told_from_those_that_do_not(tmp_path):
    write_coloured_squares(tmp_path / "data", per_class=4)
    paths = sorted((tmp_path / "data").rglob("*.png"))
    checkpoint = checkpoint_of(("blue", "green", "yellow"), ("blue", "yellow"))
    encoder, prompts = ColourEncoder(), CircleSettings(rows=3, columns=3)
    # Fit the first concept to the encoder by least squares; the second one is zero.
    preparation = checkpoint.card.preparation
    embedded = cached_prompt_embeddings(tmp_path / "c", paths, encoder, prompts, preparation=preparation)
    wanted = local_similarities(embedded, encoder.embed_texts(("blue",)))[:, 0].flatten().float()
    features = compute_features(checkpoint.model, paths, preparation)
    on_grid = features_on_grid(features, rows=3, columns=3).transpose(1, 2).flatten(0, 1)
    row = torch.linalg.lstsq(on_grid - on_grid.mean(dim=0), (wanted - wanted.mean())[:, None]).solution[:, 0]
    checkpoint.model.concept_weight.copy_(torch.stack([row, torch.zeros_like(row)]))
    found = concept_similarities(checkpoint, paths, EncoderView((encoder,), prompts), count=100)
    assert [one.concept for one in found] == ["blue", "yellow"]
    assert found[0].similarity > 0.8
    assert found[1].similarity == pytest.approx(0, abs=1e-6)


def test_what_cannot_be_evaluated_is_one_line(scenes, tmp_path):
    run = CliRunner().invoke
    broken = run(app, ["evaluate", str(tmp_path), "--data", str(scenes / "held_out"), "--out", str(tmp_path / "o")])
    assert broken.exit_code == 1
    assert "misses card.json" in broken.stderr
    empty = run(app, ["evaluate", str(scenes / "checkpoint"), "--data", str(tmp_path), "--out", str(tmp_path / "o")])
    assert empty.exit_code == 1
    assert len(empty.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_training_pictures_without_every_class_are_refused(scenes, tmp_path):
    write_scenes(tmp_path / "one", count=1, first_seed=0, workers=1)
    write_coloured_squares(tmp_path / "squares", per_class=1)
    checkpoint = load_checkpoint(scenes / "checkpoint")
    for folder, words in (("one", "no pictures of 11 of the checkpoint's 12 classes"), ("squares", "does not know")):
        with pytest.raises(DataError, match=words):
            evaluate_checkpoint(checkpoint, scenes / "held_out", name="x", settings=FEW, train_data=tmp_path / folder)
