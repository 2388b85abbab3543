"""A whole export: files, versions, refusals, and what survives an interruption."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from onnx import numpy_helper
from tritonclient.grpc import model_config_pb2

from demonstration.paths import REPOSITORY
from salf_contract import contract_id_from_words, decode_picture, metadata_in_parameters, parse_metadata, prepare
from salf_export import (
    FidelityError,
    GraphError,
    OptionError,
    RepositoryError,
    ServingSettings,
    SourceError,
    export_checkpoint,
    exporting,
)
from salf_export.backbone_graph import backbone_graph
from salf_export.comparison import Reference, explain_errors
from salf_export.graph_builder import tensor_dims
from salf_export.operators import operator_problems
from salf_training.checkpoint import Checkpoint

MODELS = ("scenes", "scenes_what_if", "scenes_all_scores", "scenes_all_maps")
ROLES = ("explain", "what_if", "all_scores", "all_maps")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def parsed_config(model: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse((model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one version; tests copy it before changing it."""
    folder = tmp_path_factory.mktemp("exported") / "repository"
    report = export_checkpoint(checkpoint, folder, name="scenes", top=16)
    assert report.models == ("scenes", "scenes_encoded", *MODELS[1:])
    assert report.version == 1
    assert 0 < max(report.fidelity.max_abs_error.values()) <= 1e-4
    return folder


@pytest.fixture
def repo(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "repository"))


def test_every_model_has_graph_metadata_and_probe(exported):
    assert sorted(p.name for p in exported.iterdir()) == sorted((*MODELS, "scenes_encoded"))
    for name in MODELS:
        assert set(tree(exported / name)) == {
            "config.pbtxt",
            *(f"1/{file}" for file in ("model.onnx", "metadata.json", "probe.npz", "fidelity.json")),
            *(f"1/{file}" for file in ("serving.pbtxt", "manifest.json")),
        }
    assert [p.name for p in exported.parent.iterdir()] == ["repository"], "nothing is left beside it"


def test_the_answers_carry_the_contract_id_of_the_document(exported, source: Checkpoint):
    document = parse_metadata((exported / "scenes/1/metadata.json").read_bytes())
    assert document.concepts == source.concepts
    assert document.fidelity is not None
    assert len(document.provenance["checkpoint_sha256"]) == 64
    for name in MODELS:
        assert parse_metadata((exported / name / "1/metadata.json").read_bytes()) == document
        probe = np.load(exported / name / "1/probe.npz")
        assert contract_id_from_words(probe["output:contract_id"][0]) == document.contract_id


def test_the_probe_is_answered_by_the_published_file(exported):
    for name in MODELS:
        probe = np.load(exported / name / "1/probe.npz")
        session = onnxruntime.InferenceSession(exported / name / "1/model.onnx", providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        assert {f"output:{n}" for n in names} == {key for key in probe if key.startswith("output:")}
        answer = session.run(None, {i.name: probe[f"input:{i.name}"] for i in session.get_inputs()})
        for output, values in zip(names, answer, strict=True):
            np.testing.assert_allclose(values, probe[f"output:{output}"], atol=1e-5)
        assert probe["input:image"].shape == (1, 64, 96, 3)


def test_published_graphs_are_plain(exported):
    for name in MODELS:
        model = onnx.load(exported / name / "1/model.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert model.ir_version <= 10
        assert [(o.domain, o.version <= 20) for o in model.opset_import] == [("", True)]
        assert operator_problems(model) == ()
        assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
        assert not any(t.data_type == onnx.TensorProto.DOUBLE for t in model.graph.initializer)
        text = model.SerializeToString()
        assert str(Path.cwd()).encode() not in text
        assert b"site-packages" not in text, "no stack traces"
        for value in (*model.graph.input, *model.graph.output):
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
            assert value.type.tensor_type.elem_type in (
                onnx.TensorProto.UINT8,
                onnx.TensorProto.INT32,
                onnx.TensorProto.FLOAT,
            )


def test_config_is_read_by_tritons_own_protobuf(exported, source: Checkpoint):
    for name, role in zip(MODELS, ROLES, strict=True):
        config = parsed_config(exported / name)
        assert (config.name, config.backend, config.max_batch_size) == (name, "onnxruntime", 8)
        session = onnxruntime.InferenceSession(exported / name / "1/model.onnx", providers=["CPUExecutionProvider"])
        for ours, theirs in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
            assert [t.name for t in ours] == [t.name for t in theirs]
            for spec, value in zip(ours, theirs, strict=True):
                # NVIDIA's backend compares outputs exactly: -1 for what the graph fixes is refused when it loads
                # (onnxruntime_backend, CompareDimsSupported with compare_exact).
                assert list(spec.dims) == value.shape[1:], spec.name
        assert config.parameters["salf_role"].string_value == role
        found = metadata_in_parameters({key: value.string_value for key, value in config.parameters.items()})
        assert found[1].concepts == source.concepts, "quotes, backslashes and accents survive"
        assert found[1].contract_id == parse_metadata((exported / name / "1/metadata.json").read_bytes()).contract_id
        assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU
        assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]


def test_the_committed_models_state_the_sizes_of_their_graphs():
    """If not, they were exported by an older salf, and no native backend loads them: export them again."""
    folders = sorted(path.parents[1] for path in REPOSITORY.glob("*/1/model.onnx"))
    assert len(folders) == len(MODELS)
    for folder in folders:
        config, dims = parsed_config(folder), tensor_dims(onnx.load(folder / "1/model.onnx"))
        assert {item.name: tuple(item.dims) for item in (*config.input, *config.output)} == dims, folder.name


def test_the_encoded_model_has_no_graph_and_knows_the_answer_to_a_png(exported, source: Checkpoint):
    folder = exported / "scenes_encoded"
    files = ("fidelity.json", "manifest.json", "metadata.json", "probe.npz", "serving.pbtxt")
    assert set(tree(folder)) == {"config.pbtxt", *(f"1/{name}" for name in files)}
    assert (folder / "1/metadata.json").read_bytes() == (exported / "scenes/1/metadata.json").read_bytes()
    config = parsed_config(folder)
    assert (config.backend, config.instance_group[0].count) == ("salf_encoded", 3)
    assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.input] == [
        ("encoded", model_config_pb2.TYPE_STRING, [1]),
        ("target", model_config_pb2.TYPE_INT32, [1]),
    ]
    with np.load(folder / "1/probe.npz", allow_pickle=False) as probe:
        prepared = prepare(decode_picture(probe["input_bytes:encoded"].tobytes()), source.card.preparation)
        session = onnxruntime.InferenceSession(exported / "scenes/1/model.onnx", providers=["CPUExecutionProvider"])
        feed = {"image": prepared.pixels[None], "target": probe["input:target"]}
        (logits,) = session.run(["logits"], feed)
        np.testing.assert_allclose(probe["output:logits"], logits, rtol=1e-5, atol=1e-5)
        assert probe["output:source_size"].tolist() == [list(prepared.source_size)]
        assert probe["output:source_size"].tolist() != [[prepared.pixels.shape[1], prepared.pixels.shape[0]]]


def test_the_encoded_model_can_be_left_out(checkpoint, tmp_path):
    assert export_checkpoint(checkpoint, tmp_path, name="scenes", encoded=False).models == MODELS


def test_the_same_checkpoint_gives_the_same_bytes_in_another_process(exported, checkpoint, tmp_path):
    """One that imports tensorrt neither for this nor with the modules that build engines."""
    code = (
        "import sys; from pathlib import Path; from salf_export import export_checkpoint; "
        "import salf_export.tensorrt_engine, salf_export.tensorrt_session; "
        "export_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), name='scenes'); sys.exit('tensorrt' in sys.modules)"
    )
    again = tmp_path / "elsewhere" / "again"
    again.parent.mkdir()
    subprocess.run([sys.executable, "-c", code, str(checkpoint), str(again)], check=True, cwd=tmp_path)
    for name in MODELS:
        assert (again / name / "1/model.onnx").read_bytes() == (exported / name / "1/model.onnx").read_bytes(), name
        assert (again / name / "1/probe.npz").read_bytes() == (exported / name / "1/probe.npz").read_bytes(), name


def test_versions_add_up_and_are_never_overwritten(repo, checkpoint):
    before = tree(repo / "scenes" / "1")
    assert (
        export_checkpoint(checkpoint, repo, name="scenes", top=3, settings=ServingSettings(device="auto")).version == 2
    )
    with pytest.raises(RepositoryError, match=r"version 2 of scenes exists.*takes 3"):
        export_checkpoint(checkpoint, repo, name="scenes", version=2)
    assert export_checkpoint(checkpoint, repo, name="scenes", version=7).version == 7
    assert tree(repo / "scenes" / "1") == before
    config = parsed_config(repo / "scenes")
    documents = metadata_in_parameters({key: value.string_value for key, value in config.parameters.items()})
    assert {version: document.top for version, document in documents.items()} == {1: 16, 2: 3, 7: 16}
    assert len({document.contract_id for document in documents.values()}) == 3


def test_another_input_size_needs_another_name(repo, other_checkpoint):
    before = tree(repo)
    with pytest.raises(RepositoryError, match="another name"):
        export_checkpoint(other_checkpoint, repo, name="scenes")
    assert tree(repo) == before


def test_top_is_clipped_to_the_concepts_there_are(checkpoint, tmp_path):
    assert export_checkpoint(checkpoint, tmp_path / "r", name="scenes", top=1000).top == 40


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "with space", "é", "x" * 101])
def test_an_unsafe_name_is_refused(name, checkpoint, tmp_path):
    with pytest.raises(OptionError, match="model name"):
        export_checkpoint(checkpoint, tmp_path / "r", name=name)
    assert not (tmp_path / "r").exists()


def test_bad_options_are_refused(checkpoint, tmp_path):
    with pytest.raises(OptionError, match="top is 0"):
        export_checkpoint(checkpoint, tmp_path / "r", name="scenes", top=0)
    with pytest.raises(OptionError, match="version is 0"):
        export_checkpoint(checkpoint, tmp_path / "r", name="scenes", version=0)
    with pytest.raises(OptionError, match="max_batch_size is 0"):
        ServingSettings(max_batch_size=0)
    with pytest.raises(OptionError, match="verification pictures"):
        export_checkpoint(checkpoint, tmp_path / "r", name="scenes", pictures=np.zeros((2, 8, 8, 3), np.uint8))
    assert not (tmp_path / "r").exists()


def test_given_pictures_are_compared_as_well(checkpoint, tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (7, 64, 96, 3), dtype=np.uint8)
    report = export_checkpoint(checkpoint, tmp_path / "r", name="scenes", pictures=pictures)
    assert report.fidelity.pictures == 9 + 7


def test_a_missing_or_broken_checkpoint_is_a_source_error(checkpoint, tmp_path):
    with pytest.raises(SourceError, match="no checkpoint folder"):
        export_checkpoint(tmp_path / "none", tmp_path / "r", name="scenes")
    broken = Path(shutil.copytree(checkpoint, tmp_path / "broken"))
    (broken / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(SourceError, match="SHA-256"):
        export_checkpoint(broken, tmp_path / "r", name="scenes")


@pytest.mark.parametrize("constant", ["logit_weight", "score_weight", "table_weights", "backbone/constant_3"])
def test_a_tampered_graph_is_not_published(constant, repo, checkpoint, monkeypatch):
    honest = exporting.build_graphs
    monkeypatch.setattr("salf_export.average_pooling.SPARSE_SHARE", 1.0)

    def tampered(*args, **kwargs):
        graphs = honest(*args, **kwargs)
        tensor = next(t for t in graphs["explain"].graph.initializer if t.name == constant)
        values = numpy_helper.to_array(tensor) + np.float32(1e-2)
        tensor.CopyFrom(numpy_helper.from_array(values, constant))
        return graphs

    monkeypatch.setattr(exporting, "build_graphs", tampered)
    before = tree(repo)
    with pytest.raises(FidelityError, match=r"logits|top_") as caught:
        export_checkpoint(checkpoint, repo, name="scenes")
    assert "TOO LARGE" in str(caught.value)
    assert tree(repo) == before


def test_nan_is_infinitely_wrong():
    reference = Reference(
        maps=np.zeros((1, 2, 1, 1)),
        scores=np.ones((1, 2)),
        logits=np.array([[1.0]]),
        normalised_maps=np.ones((1, 2, 1, 1)),
        head_weight=np.array([[1.0, 0.0]]),
        head_bias=np.zeros(1),
    )
    answer = {
        "logits": np.array([[1.0]]),
        "target_class": np.array([[0]]),
        "bias": np.zeros((1, 1)),
        "top_concepts": np.array([[0, -1]]),
        "top_contributions": np.array([[1.0, 0.0]]),
        "top_scores": np.array([[1.0, 0.0]]),
        "rest_contribution": np.zeros((1, 1)),
        "coverage": np.ones((1, 1)),
        "top_maps": np.array([1.0, 0.0]).reshape(1, 2, 1, 1),
    }
    wanted = np.array([[-1]], np.int32)
    assert max(explain_errors(answer, wanted, reference).values()) == 0
    for name in ("logits", "bias", "top_contributions", "top_scores", "rest_contribution", "coverage", "top_maps"):
        broken = {**answer, name: np.full_like(answer[name], np.nan)}
        assert explain_errors(broken, wanted, reference)[name] == np.inf, name
    for concepts in ([[1, -1]], [[-1, 0]], [[0, 0]], [[0, 1]], [[9, -1]]):
        broken = {**answer, "top_concepts": np.array(concepts)}
        assert explain_errors(broken, wanted, reference)["top_concepts"] > 0.5, concepts


def test_a_repository_that_is_a_file_is_a_repository_error(checkpoint, tmp_path):
    (tmp_path / "r").write_text("")
    with pytest.raises(RepositoryError, match="could not be written"):
        export_checkpoint(checkpoint, tmp_path / "r", name="scenes")


def test_a_foreign_model_of_the_same_name_is_left_alone(checkpoint, tmp_path):
    (tmp_path / "r/scenes/1").mkdir(parents=True)
    with pytest.raises(RepositoryError, match="not exported by this salf"):
        export_checkpoint(checkpoint, tmp_path / "r", name="scenes")


def test_a_backbone_that_cannot_be_exported_is_a_graph_error(source: Checkpoint):
    class Stubborn(torch.nn.Module):
        def forward(self, images):
            if images.sum().item() > 0:
                return images
            return images + torch.rand(()).item()

    model = type(source.model)(Stubborn(), channels=3, concepts=2, classes=2)
    with pytest.raises(GraphError, match="cannot be exported"):
        backbone_graph(model, source.card.preparation)


def test_the_export_leaves_the_model_and_stdout_alone(source: Checkpoint, capsys):
    before = {name: tensor.clone() for name, tensor in source.model.state_dict().items()}
    backbone_graph(source.model, source.card.preparation)
    assert all(torch.equal(before[name], tensor) for name, tensor in source.model.state_dict().items())
    assert source.model.concept_weight.dtype == torch.float32
    assert capsys.readouterr().out == ""
