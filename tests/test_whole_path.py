"""From a checkpoint to an answer over gRPC: the served numbers are the PyTorch model's, and they add up."""

from pathlib import Path

import numpy as np
import pytest
import torch

from demonstration.paths import CHECKPOINT, MODEL_NAME, REPOSITORY
from demonstration.retrain import SHOWN_SEEDS
from salf_client import Client, Explanation
from salf_contract import prepare, sum_tolerance
from salf_export import export_checkpoint
from salf_serving import RunningServer, free_port, launch
from salf_training.backbone_training import BackboneTraining
from salf_training.bottleneck import BottleneckTraining
from salf_training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from salf_training.encoder_training import EncoderTraining
from salf_training.head import HeadTraining
from salf_training.scene_world import SceneWorldSettings, train_scene_world
from salf_training.scenes import draw_scene

#: Scenes after those that the demonstration may show: never seen by training.
PARITY_SEEDS = range(SHOWN_SEEDS.stop, SHOWN_SEEDS.stop + 50)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(CHECKPOINT)


@pytest.fixture(scope="module")
def client(triton_server: RunningServer):
    with Client(triton_server.grpc_address, model=MODEL_NAME) as client:
        yield client


def local_scores(checkpoint: Checkpoint, image) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(logits [K], z [M], normalised maps [M,h,w]) by PyTorch, unfused, in float32."""
    model = checkpoint.model
    pixels = torch.from_numpy(prepare(image, checkpoint.card.preparation).pixels)[None]
    with torch.inference_mode():
        answer = model(pixels)
        maps = (answer.maps - model.score_mean[:, None, None]) / model.score_std[:, None, None]
    return answer.logits[0].numpy(), answer.scores[0].numpy(), maps[0].numpy()


def test_served_answers_equal_pytorch_on_fifty_unseen_pictures(checkpoint: Checkpoint, client: Client) -> None:
    top = client.models()[0].top
    for seed in PARITY_SEEDS:
        image = draw_scene(seed).image
        logits, scores, maps = local_scores(checkpoint, image)
        served = client.explain(image, top=top)
        np.testing.assert_allclose(served.logits, logits, atol=1e-3)
        assert served.label_index == logits.argmax()
        contributions = checkpoint.model.head_weight[served.target_index].numpy() * scores
        # The same concepts, up to the order of equals.
        shown = [concept.index for concept in served.concepts]
        assert len(shown) == min(top, int((contributions != 0).sum()))
        weakest_shown = min(abs(contributions[shown]))
        left_out = np.delete(np.abs(contributions), shown)
        assert left_out.max() <= weakest_shown + 1e-3
        for concept in served.concepts:
            assert concept.name == checkpoint.concepts[concept.index]
            assert concept.contribution == pytest.approx(contributions[concept.index], abs=1e-3)
            assert concept.score == pytest.approx(scores[concept.index], abs=1e-3)
            np.testing.assert_allclose(concept.map, maps[concept.index], atol=1e-3)


@pytest.mark.parametrize("top", [1, 3])
def test_contributions_rest_and_bias_sum_to_the_logit_for_every_class(
    checkpoint: Checkpoint, client: Client, top: int
) -> None:
    image = draw_scene(PARITY_SEEDS.start).image
    logits, scores, _ = local_scores(checkpoint, image)
    for target, name in enumerate(checkpoint.classes):
        explanation = client.explain(image, top=top, target=name)
        assert explanation.target_index == target
        contributions = checkpoint.model.head_weight[target].numpy() * scores
        tolerance = sum_tolerance(contributions)
        shown = sum(concept.contribution for concept in explanation.concepts)
        assert shown + explanation.rest_contribution + explanation.bias == pytest.approx(
            explanation.logit, abs=tolerance
        )
        assert explanation.logit == pytest.approx(logits[target], abs=1e-3)
        # The rest, from the checkpoint and not by subtraction.
        rest = np.delete(contributions, [concept.index for concept in explanation.concepts]).sum()
        assert explanation.rest_contribution == pytest.approx(rest, abs=tolerance)
        coverage = sum(abs(c.contribution) for c in explanation.concepts) / np.abs(contributions).sum()
        assert explanation.coverage == pytest.approx(coverage, abs=1e-3)


def test_the_committed_model_is_small_and_its_card_keeps_the_promises(checkpoint: Checkpoint) -> None:
    files = [path for root in (REPOSITORY, CHECKPOINT) for path in root.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12 * 2**20
    backbone = [tensor for name, tensor in checkpoint.model.state_dict().items() if name.startswith("backbone.")]
    assert sum(tensor.numel() * tensor.element_size() for tensor in backbone) <= 2.5e6
    evaluation = checkpoint.card.evaluation
    assert evaluation is not None
    assert evaluation.backbone_accuracy >= 0.90
    assert checkpoint.card.concepts_per_class <= 5
    assert evaluation.accuracy >= evaluation.backbone_accuracy - 0.015
    assert [point.concepts_per_class for point in evaluation.nec_curve] == sorted(
        point.concepts_per_class for point in evaluation.nec_curve
    )
    assert len(evaluation.nec_curve) == 6
    assert evaluation.dense_accuracy is not None
    assert evaluation.localisation is not None
    assert evaluation.localisation.deciding_concepts >= 0.85
    assert evaluation.localisation.all_objects >= 0.6
    assert evaluation.localisation.all_objects > evaluation.localisation.centre_point


def test_the_committed_model_is_as_accurate_as_its_card_says(checkpoint: Checkpoint) -> None:
    scenes = [draw_scene(seed) for seed in range(PARITY_SEEDS.stop, PARITY_SEEDS.stop + 300)]
    pixels = torch.from_numpy(np.stack([prepare(s.image, checkpoint.card.preparation).pixels for s in scenes]))
    with torch.inference_mode():
        right = checkpoint.model(pixels).logits.argmax(dim=1).numpy() == [scene.label for scene in scenes]
    assert checkpoint.card.evaluation is not None
    # Three standard errors of 300 pictures.
    said = checkpoint.card.evaluation.accuracy
    assert abs(right.mean() - said) <= 3 * (said * (1 - said) / 300) ** 0.5 + 0.003


@pytest.mark.slow
def test_a_tiny_world_goes_from_nothing_to_an_explained_answer(tmp_path: Path, runtime) -> None:
    settings = SceneWorldSettings(
        scenes=360,
        concept_filters=None,
        held_out_scenes=60,
        encoder_scenes=120,
        circles_per_scene=4,
        encoder=EncoderTraining(image_size=56, epochs=1, merges=100, batch_size=64),
        image_size=56,
        backbone_training=BackboneTraining(epochs=3, batch_size=32),
        similarity_pictures=40,
        localisation_encoder_pictures=10,
        bottleneck=BottleneckTraining(steps=60, batch_size=16),
        head=HeadTraining(path_length=8, max_iterations=200),
    )
    save_checkpoint(tmp_path / "checkpoint", train_scene_world(settings, tmp_path / "world"))
    export_checkpoint(tmp_path / "checkpoint", tmp_path / "repository", name="tiny")
    with launch(tmp_path / "repository", grpc_port=free_port()) as server, Client(server.grpc_address) as client:
        explanation: Explanation = client.explain(draw_scene(3_000_000).image)
    assert explanation.label in load_checkpoint(tmp_path / "checkpoint").classes
    assert len(explanation.concepts) == 5
    total = sum(c.contribution for c in explanation.concepts) + explanation.rest_contribution + explanation.bias
    parts = np.array([c.contribution for c in explanation.concepts] + [explanation.rest_contribution])
    assert total == pytest.approx(explanation.logit, abs=sum_tolerance(parts))
