"""Published folders that are incomplete, hostile, damaged or contradict themselves are refused by name."""

import pickle
from pathlib import Path

import pytest
import torch
from published_folders import CHANNELS, CLASSES, CONCEPTS, FEATURES, write_published

from salf_training.errors import CheckpointError, TrainingError, WeightsError
from salf_training.importers import import_checkpoint
from salf_training.weights import read_tensor


def test_each_missing_file_is_named(folder, layout):
    for path in sorted(folder.iterdir()):
        aside = path.rename(folder.parent / path.name)
        with pytest.raises(CheckpointError, match=rf"misses {path.name}"):
            import_checkpoint(folder, layout=layout, backbone=FEATURES)
        aside.rename(path)
    import_checkpoint(folder, layout=layout, backbone=FEATURES)


class Malicious:
    """Unpickling it with `weights_only=False` would write a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return Path.write_text, (self.proof, "ran")


@pytest.mark.parametrize("file", ["W_c.pt", "W_g.pt", "b_g.pt", "proj_mean.pt", "proj_std.pt", "concept_layer.pt"])
def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path, file):
    layout = "salf-spatial" if file == "concept_layer.pt" else "label-free"
    folder, proof = tmp_path / "published", tmp_path / "proof"
    write_published(folder, layout)
    for write in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))):
        write(Malicious(proof), folder / file)
        with pytest.raises(WeightsError, match=rf"{file} cannot be read"):
            import_checkpoint(folder, layout=layout, backbone=FEATURES)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Malicious(proof)))
    assert proof.exists(), "the pickle above would have done nothing anyway"


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped"])
def test_a_broken_file_is_refused_by_name(label_free, damage):
    path = label_free / "W_g.pt"
    whole = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "text": b"weights", "cut": whole[: len(whole) // 2], "flipped": b"\0" + whole}[damage]
    )
    with pytest.raises(WeightsError, match=r"W_g\.pt cannot be read"):
        import_checkpoint(label_free, layout="label-free", backbone=FEATURES)


@pytest.mark.parametrize(
    ("file", "value", "said"),
    [
        ("W_c.pt", torch.ones(CONCEPTS, CHANNELS, 1, 1), r"W_c\.pt has shape .*belongs to the layout show-and-tell"),
        ("W_c.pt", torch.ones(CONCEPTS + 1, CHANNELS), r"concepts\.txt holds 7 names, but the bottleneck has 8"),
        ("W_c.pt", torch.ones(0, CHANNELS), r"W_c\.pt has shape \[0, 5\]"),
        ("W_g.pt", torch.ones(CLASSES, CONCEPTS - 1), r"W_g\.pt has shape \[3, 6\], expected \[3, 7\]"),
        ("W_g.pt", torch.ones(CONCEPTS, CLASSES), r"W_g\.pt has shape \[7, 3\], expected \[3, 7\]"),
        ("W_g.pt", torch.full((CLASSES, CONCEPTS), torch.nan), r"W_g\.pt holds 21 values that are not finite"),
        ("W_g.pt", torch.ones(CLASSES, CONCEPTS, dtype=torch.int64), r"W_g\.pt is torch\.int64"),
        ("W_g.pt", torch.ones(CLASSES, CONCEPTS).to_sparse(), r"W_g\.pt is .*sparse"),
        ("W_g.pt", {"weight": torch.ones(CLASSES, CONCEPTS)}, r"W_g\.pt holds a dict, expected one tensor"),
        ("b_g.pt", torch.ones(CLASSES, 1), r"b_g\.pt has shape \[3, 1\], expected \[3\]"),
        ("proj_mean.pt", torch.ones(CONCEPTS, 1), r"proj_mean\.pt has shape \[7, 1\], expected \[1, 7\]"),
        ("proj_std.pt", torch.tensor([[1.0, 1, 0, 1, 1, 1, 1]]), r"proj_std\.pt is 0 for concept 2 \('concept 2'\)"),
        ("proj_std.pt", -torch.ones(1, CONCEPTS), r"proj_std\.pt is -1 for concept 0"),
    ],
)
def test_numbers_that_contradict_names_or_sense_are_refused(label_free, file, value, said):
    torch.save(value, label_free / file)
    with pytest.raises(TrainingError, match=said):
        import_checkpoint(label_free, layout="label-free", backbone=FEATURES)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"weight": torch.ones(CONCEPTS, CHANNELS, 1, 1)}, "holds weight, expected weight and bias"),
        ({"weight": torch.ones(CONCEPTS, CHANNELS), "bias": torch.ones(CONCEPTS)}, "expected a 1x1 convolution"),
        ({"weight": torch.ones(CONCEPTS, CHANNELS, 3, 3), "bias": torch.ones(CONCEPTS)}, "expected a 1x1 convolution"),
        ({"weight": torch.ones(CONCEPTS, CHANNELS, 1, 1), "bias": torch.ones(4)}, r"bias in .* has shape \[4\]"),
    ],
)
def test_a_spatial_layer_of_another_kind_is_refused(tmp_path, state, said):
    write_published(tmp_path / "published", "salf-spatial")
    torch.save(state, tmp_path / "published" / "concept_layer.pt")
    with pytest.raises(CheckpointError, match=said):
        import_checkpoint(tmp_path / "published", layout="salf-spatial", backbone=FEATURES)


@pytest.mark.parametrize("file", ["concepts.txt", "classes.txt"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda names: names[:-1], r"(holds 6 names|W_g\.pt has shape \[3, 7\], expected \[2, 7\])"),
        (lambda names: [*names[:-1], names[0]], "these occur twice: 'c"),
        (lambda names: [names[0], "", *names[2:]], "a line is empty"),
        (lambda _: [], "a line is empty"),
    ],
)
def test_names_that_do_not_fit_are_refused(label_free, file, change, said):
    names = (label_free / file).read_text().splitlines()
    (label_free / file).write_text("\n".join(change(names)))
    with pytest.raises(CheckpointError, match=said):
        import_checkpoint(label_free, layout="label-free", backbone=FEATURES)


def test_a_tensor_that_was_trained_is_read_without_its_gradient(tmp_path):
    torch.save(torch.nn.Parameter(torch.ones(3)), tmp_path / "t.pt")
    tensor = read_tensor(tmp_path / "t.pt")
    assert not tensor.requires_grad
    assert tensor.tolist() == [1, 1, 1]
