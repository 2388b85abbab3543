"""A family of two small real models, published without training or torch: for tests of the repository alone."""

import io
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from salf_contract import Fidelity, Metadata, Preparation
from salf_export.publishing import publish
from salf_export.repository import ModelFolder
from salf_export.triton_config import ServingSettings
from salf_export.weight_files import weights_file

CLASSES = 3
NAMES = ("boats_all_maps", "boats")
#: What tests interrupt -> versions that are there before it.
CHANGES = {"publish": (1,), "publish onto latest": (1,), "rollback": (1, 2), "retention": (1, 2, 3)}
#: What both models of a version hold, as an export of a large network would.
WEIGHTS = b"weights that both models read" * 1000
FILES = {"model.onnx", "metadata.json", "probe.npz", "serving.pbtxt", weights_file(WEIGHTS)}


def document(version: int, *, concepts: int = 4, fidelity: bool = True) -> Metadata:
    measured = Fidelity(runtime="onnxruntime 1", precision="fp32", max_abs_error={"logits": 1e-6}, pictures=9)
    return Metadata(
        name="boats",
        version=version,
        classes=tuple(f"class {i}" for i in range(CLASSES)),
        concepts=tuple(f'concept "{i}" é' for i in range(concepts)),
        preparation=Preparation(height=4, width=6),
        pooling="average",
        map_size=(1, 1),
        top=2,
        provenance={"checkpoint_sha256": "0" * 64},
        accuracy={"accuracy": 0.9},
        fidelity=measured if fidelity else None,
    )


def graph(version: int) -> bytes:
    """Picture -> mean of each colour, plus the version: every version answers differently."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "version"], ["logits"]),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 4, 6, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(np.array(version, np.float32), "version"),
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def probe(version: int) -> bytes:
    image = np.random.default_rng(version).integers(0, 256, (1, 4, 6, 3), dtype=np.uint8)
    logits = image.astype(np.float32).mean((1, 2)) + np.float32(version)
    file = io.BytesIO()
    np.savez_compressed(file, **{"input:image": image, "output:logits": logits})
    return file.getvalue()


def config(name: str, *, settings: ServingSettings | None = None) -> str:
    chosen = settings or ServingSettings(threads=1)
    return (
        f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: {chosen.max_batch_size}\n'
        'input [ { name: "image" data_type: TYPE_UINT8 dims: [ 4, 6, 3 ] } ]\n'
        'output [ { name: "logits" data_type: TYPE_FP32 dims: [ -1 ] } ]\n'
        "version_policy { latest { num_versions: 1 } }\n"
        "instance_group [ { kind: KIND_CPU count: 1 } ]\ndynamic_batching { }\n"
        f'parameters {{ key: "intra_op_thread_count" value {{ string_value: "{chosen.threads}" }} }}\n'
    )


def models(version: int, names: tuple[str, ...] = NAMES, **described: bool) -> list[ModelFolder]:
    text = document(version, **described).to_json().encode()
    files = {"model.onnx": graph(version), "metadata.json": text, "probe.npz": probe(version)}
    files[weights_file(WEIGHTS)] = WEIGHTS
    return [ModelFolder(name, config(name), files) for name in names]


def publish_family(repository: Path, version: int, **described: bool) -> None:
    publish(repository, version, models(version, **described))
