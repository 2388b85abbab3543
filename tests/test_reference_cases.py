"""Published checkpoint layouts against the answers of the published formulas: in PyTorch, and through the real Triton.

The cases lie beside the repository, in ../shared/reference ($SALF_REFERENCE says where else). They are not part of it:
a clone that stands alone skips these tests, CI has them and fails without.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from salf_contract import FROM_FEATURES_OUTPUTS, PREDICTED_CLASS, sum_tolerance
from salf_export import export_checkpoint
from salf_serving import RunningServer, Runtime, free_port, launch
from salf_training.backbone import BackboneSettings
from salf_training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from salf_training.importers import import_checkpoint

REFERENCE = Path(os.environ.get("SALF_REFERENCE", Path(__file__).parents[2] / "shared" / "reference"))
LAYOUTS = {
    "show_and_tell": "show-and-tell",
    "show_and_tell_resized": "show-and-tell",
    "salf_spatial": "salf-spatial",
    "label_free": "label-free",
}


def read_case(name: str) -> dict[str, np.ndarray]:
    path = REFERENCE / name / "case.npz"
    if not path.is_file():
        told = f"the reference case {path} is missing; set SALF_REFERENCE to the folder that holds {name}/"
        (pytest.fail if {"CI", "SALF_REFERENCE"} & os.environ.keys() else pytest.skip)(told)
    with np.load(path, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def imported(name: str) -> Checkpoint:
    case = read_case(name)
    _, channels, height, width = case["features"].shape
    return import_checkpoint(
        REFERENCE / name,
        layout=LAYOUTS[name],
        backbone=BackboneSettings(name="features", options={"channels": channels, "height": height, "width": width}),
        map_size=tuple(case["map_size"].tolist()) if "map_size" in case else None,
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_imported_checkpoint_gives_the_published_numbers(name, tmp_path):
    case = read_case(name)
    save_checkpoint(tmp_path / name, imported(name))
    model = load_checkpoint(tmp_path / name).model
    with torch.inference_mode():
        answer = model.from_features(torch.from_numpy(case["features"]).float())
        edited = model.scores(answer.maps + torch.from_numpy(case["edit"]).float())
        got = {
            "maps": answer.maps,
            "concept_scores": answer.scores,
            "logits": answer.logits,
            "edited_concept_scores": edited,
            "edited_logits": model.logits(edited),
        }
    for key, values in got.items():
        assert values.shape == case[key].shape, key
        np.testing.assert_allclose(values.numpy(), case[key], rtol=0, atol=1e-5, err_msg=key)
    # The edit is felt: a test that compared equal numbers would pass without it.
    assert np.abs(case["edited_logits"] - case["logits"]).max() > 0.1


@pytest.fixture(scope="module")
def reference_server(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """The four cases, exported and served."""
    folder = tmp_path_factory.mktemp("reference")
    for name in LAYOUTS:
        save_checkpoint(folder / name, imported(name))
        report = export_checkpoint(folder / name, folder / "models", name=name, from_features=True)
        assert report.models == (f"{name}_from_features",)
    with launch(folder / "models", grpc_port=free_port(), log_file=folder / "triton.log", threads=1) as server:
        assert {(model.name, model.probed) for model in server.models} == {
            (f"{n}_from_features", True) for n in LAYOUTS
        }
        yield server


@pytest.mark.parametrize("name", LAYOUTS)
def test_triton_gives_the_published_numbers(name, reference_server):
    case = read_case(name)
    head = imported(name).model
    weights, bias = head.head_weight.double().numpy(), head.head_bias.double().numpy()
    mean, std = head.score_mean.double().numpy(), head.score_std.double().numpy()
    features = case["features"].astype(np.float32)
    for wanted in (np.full((len(features), 1), PREDICTED_CLASS, np.int32), np.array([[3], [0], [9]], np.int32)):
        answer = ask(reference_server, f"{name}_from_features", features, wanted)
        for output, key in (("all_maps", "maps"), ("all_scores", "concept_scores"), ("logits", "logits")):
            assert answer[output].shape == case[key].shape
            np.testing.assert_allclose(answer[output], case[key], rtol=0, atol=1e-4, err_msg=output)
        expected = case["logits"].argmax(axis=1) if wanted[0, 0] == PREDICTED_CLASS else wanted[:, 0]
        assert answer["target_class"][:, 0].tolist() == expected.tolist()
        for row, k in enumerate(expected):
            contributions = weights[k] * case["concept_scores"][row]
            order = np.argsort(-np.abs(contributions))[: np.count_nonzero(weights[k])]
            shown = answer["top_concepts"][row]
            used = shown[shown >= 0]
            assert len(used) == min(len(shown), len(order))
            assert set(used.tolist()) == set(order[: len(used)].tolist())
            np.testing.assert_allclose(answer["top_contributions"][row, : len(used)], contributions[used], atol=1e-4)
            maps = (case["maps"][row, used] - mean[used, None, None]) / std[used, None, None]
            np.testing.assert_allclose(answer["top_maps"][row, : len(used)], maps, atol=1e-4)
            rest = np.delete(contributions, used).sum()
            np.testing.assert_allclose(answer["rest_contribution"][row], rest, atol=1e-4)
            total = answer["top_contributions"][row].sum() + answer["rest_contribution"][row, 0] + bias[k]
            assert abs(total - answer["logits"][row, k]) <= sum_tolerance(contributions)


def test_features_of_another_shape_are_an_error_that_the_server_survives(reference_server):
    features = read_case("label_free")["features"].astype(np.float32)
    target = np.zeros((3, 1), np.int32)
    for wrong in (features[:, :3], features[:, :, :5]):
        with pytest.raises(InferenceServerException):
            ask(reference_server, "label_free_from_features", wrong, target)
    assert ask(reference_server, "label_free_from_features", features, target)["target_class"].tolist() == [[0]] * 3


def ask(server: RunningServer, model: str, features: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    inputs = []
    for name, array, datatype in (("features", features, "FP32"), ("target", target, "INT32")):
        tensor = triton.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    outputs = [spec.name for spec in FROM_FEATURES_OUTPUTS]
    with triton.InferenceServerClient(server.grpc_address) as client:
        answer = client.infer(model, inputs, outputs=[triton.InferRequestedOutput(output) for output in outputs])
    return {output: answer.as_numpy(output) for output in outputs}
