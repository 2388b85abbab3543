"""Every graph of every kind of model: CNN and transformer, both poolings, maps resized or not, never square.

Each is compared with PyTorch in float64 on batches of 1, 3 and 5, in ONNX Runtime and in OpenVINO, and with the table
of operators.
"""

import onnx
import pytest
from onnx import ModelProto

from salf_export.artefacts import make_artefact
from salf_export.backbone_graph import backbone_graph
from salf_export.folding import graph_head, linear_head
from salf_export.graph_builder import identity_features
from salf_export.graphs import all_maps_graph, all_scores_graph, explain_graph, from_features_graph, what_if_graph
from salf_export.kinds import Kind
from salf_export.operators import IR_VERSION_MAX, operator_problems, operator_table
from salf_export.runtime import GraphSession
from salf_export.triton_config import Role
from salf_export.verification import verify
from salf_training.backbone import BackboneSettings
from salf_training.checkpoint import Checkpoint
from salf_training.model import SalfModel

from .conftest import HEIGHT, WIDTH, random_checkpoint
from .test_graphs import ID

NETWORKS = {
    "cnn": BackboneSettings(name="test_resnet"),
    "vit": BackboneSettings(name="test_vit", options={"img_size": [HEIGHT, WIDTH]}),
}
HEADS = {
    "average": {"pooling": "average"},
    "average, resized": {"pooling": "average", "map_size": (5, 4)},
    "softmax": {"pooling": "softmax"},
    "softmax, resized": {"pooling": "softmax", "map_size": (3, 7)},
}


@pytest.fixture(scope="module")
def backbones() -> dict[str, ModelProto]:
    """Exported once: heads do not change them."""
    sources = {name: random_checkpoint(settings=settings) for name, settings in NETWORKS.items()}
    return {name: backbone_graph(source.model, source.card.preparation) for name, source in sources.items()}


def every_graph(backbone: ModelProto, source: Checkpoint) -> dict[Role, ModelProto]:
    head = graph_head(linear_head(source.model))
    features = identity_features(*source.card.feature_shape)
    return {
        "explain": explain_graph(backbone, head, top=6, contract_id=ID),
        "what_if": what_if_graph(backbone, head, contract_id=ID),
        "all_scores": all_scores_graph(backbone, head, contract_id=ID),
        "all_maps": all_maps_graph(backbone, head, contract_id=ID),
        "from_features": from_features_graph(features, head, top=6, contract_id=ID),
    }


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_graph_answers_as_pytorch_and_uses_what_tensorrt_reads(network, head, backbones):
    source = random_checkpoint(settings=NETWORKS[network], **HEADS[head])
    graphs = every_graph(backbones[network], source)
    for role, graph in graphs.items():
        assert operator_problems(graph) == (), role
        assert graph.ir_version <= IR_VERSION_MAX
        assert [opset.version <= operator_table().opset_max for opset in graph.opset_import] == [True]
        dims = {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
                for value in (*graph.graph.input, *graph.graph.output)}  # fmt: skip
        assert all(shape[0] == "batch" and all(isinstance(d, int) for d in shape[1:]) for shape in dims.values()), dims
        if role != "from_features":
            assert dims["image"] == ["batch", HEIGHT, WIDTH, 3]
        onnx.checker.check_model(graph, full_check=True)
    sessions = {role: GraphSession(graph, threads=1) for role, graph in graphs.items()}
    fidelity = verify(sessions, source.model, source.card, contract_id=ID)
    assert {
        "all_maps",
        "all_scores",
        "top_maps",
        "region_scores",
        "edited_logits",
        "edited_contributions",
        "sum",
    } <= set(fidelity.max_abs_error)
    assert 0 < max(fidelity.max_abs_error.values()) <= 1e-4
    openvino = {role: make_artefact(graph, Kind("openvino", "fp32")).session for role, graph in graphs.items()}
    again = verify(openvino, source.model, source.card, contract_id=ID)
    assert again.max_abs_error.keys() == fidelity.max_abs_error.keys()
    assert again.runtime.startswith("openvino")


def test_the_transformer_is_one():
    """Guards the matrix: its features are patches behind attention, not a convolution's."""
    source = random_checkpoint(settings=NETWORKS["vit"])
    assert isinstance(source.model, SalfModel)
    assert source.card.feature_shape[1:] == (HEIGHT // 16, WIDTH // 16)
