"""A tiny model whose right answers are one line of numpy."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from salf_serving import FrontSettings, RunningServer, Runtime, free_port, launch
from salf_serving.front import Front
from salf_serving.kept_front import KeptFront
from salf_serving.nginx_config import FrontFiles
from salf_serving.status import Status

# Test files are imported one by one (importlib mode); what they share lies beside them.
sys.path.insert(0, str(Path(__file__).parent))

from served import infer_request, is_right

HEIGHT, WIDTH, CLASSES = 6, 4, 5
WEIGHTS = np.random.default_rng(7).normal(size=(3, CLASSES)).astype(np.float32)
BIAS = np.arange(CLASSES, dtype=np.float32)

CONFIG = """\
name: "tiny"
backend: "onnxruntime"
max_batch_size: 8
input [
  { name: "image" data_type: TYPE_UINT8 dims: [ 6, 4, 3 ] },
  { name: "target" data_type: TYPE_INT32 dims: [ 1 ] }
]
output [
  { name: "logits" data_type: TYPE_FP32 dims: [ -1 ] },
  { name: "target_class" data_type: TYPE_INT32 dims: [ 1 ] },
  { name: "bias" data_type: TYPE_FP32 dims: [ 1 ] },
  { name: "maps" data_type: TYPE_FP32 dims: [ 3, 6, 4 ] }
]
instance_group [ { count: 1 kind: KIND_CPU } ]
dynamic_batching { max_queue_delay_microseconds: 20000 }
parameters { key: "salf_metadata_v1" value: { string_value: "{}" } }
parameters { key: "intra_op_thread_count" value: { string_value: "1" } }
"""


@dataclass(frozen=True)
class Tiny:
    """The tiny model, computed by numpy."""

    def images(self, rows: int, seed: int = 0) -> np.ndarray:
        """UINT8 [rows,6,4,3]."""
        return np.random.default_rng(seed).integers(0, 256, (rows, HEIGHT, WIDTH, 3), dtype=np.uint8)

    def answers(self, images: np.ndarray, targets: np.ndarray, version: int = 1) -> dict[str, np.ndarray]:
        """What the graph of a version must give for UINT8 [B,6,4,3] and INT32 [B,1]."""
        maps = images.astype(np.float32).transpose(0, 3, 1, 2)
        logits = maps.mean((2, 3)) @ WEIGHTS
        target_class = np.where(targets < 0, logits.argmax(1, keepdims=True), targets).astype(np.int32)
        return {"logits": logits, "target_class": target_class, "bias": _biases(version)[target_class], "maps": maps}

    def write(self, repository: Path, *, config: str = CONFIG, probe: str | None = "right", version: int = 1) -> Path:
        """Write the model as a version of `tiny`; returns the version folder.

        A target of 5 or more makes ONNX Runtime fail inside the graph.
        """
        folder = repository / "tiny" / str(version)
        folder.mkdir(parents=True)
        onnx.save(_graph(version), folder / "model.onnx")
        (repository / "tiny" / "config.pbtxt").write_text(config)
        if probe is not None:
            images, targets = self.images(1, seed=3), np.full((1, 1), -1, np.int32)
            answers = self.answers(images, targets, version)
            if probe == "wrong":
                answers["logits"] = answers["logits"] + np.float32(0.5)
            outputs = {f"output:{name}": array for name, array in answers.items()}
            np.savez(folder / "probe.npz", **{"input:image": images, "input:target": targets}, **outputs)
        return folder


def _biases(version: int) -> np.ndarray:
    """FP32 [5]; tells versions apart."""
    return BIAS + np.float32(100 * (version - 1))


def _graph(version: int) -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        node("Transpose", ["float"], ["maps"], perm=[0, 3, 1, 2]),
        node("GlobalAveragePool", ["maps"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("MatMul", ["flat", "weights"], ["logits"]),
        node("ArgMax", ["logits"], ["best"], axis=1, keepdims=1),
        node("Cast", ["best"], ["predicted"], to=TensorProto.INT32),
        node("Less", ["target", "zero"], ["asks_for_predicted"]),
        node("Where", ["asks_for_predicted", "predicted", "target"], ["target_class"]),
        node("Gather", ["biases", "target_class"], ["bias"]),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "tiny",
        [tensor("image", TensorProto.UINT8, ["B", HEIGHT, WIDTH, 3]), tensor("target", TensorProto.INT32, ["B", 1])],
        [
            tensor("logits", TensorProto.FLOAT, ["B", CLASSES]),
            tensor("target_class", TensorProto.INT32, ["B", 1]),
            tensor("bias", TensorProto.FLOAT, ["B", 1]),
            tensor("maps", TensorProto.FLOAT, ["B", 3, HEIGHT, WIDTH]),
        ],
        [
            numpy_helper.from_array(WEIGHTS, "weights"),
            numpy_helper.from_array(_biases(version), "biases"),
            numpy_helper.from_array(np.zeros((), np.int32), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model


@pytest.fixture(scope="session")
def nginx(debian_program: Callable[[str, str], Path]) -> Path:
    return debian_program("nginx", "nginx")


@pytest.fixture(scope="session")
def stream_module(nginx: Path, debian_file: Callable[[str, str], Path]) -> Iterator[Path]:
    """nginx's stream module, where salf finds it."""
    module = debian_file("usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SALF_NGINX_MODULES", str(module.parent))
        yield module


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="session")
def config() -> str:
    return CONFIG


@pytest.fixture(scope="session")
def tiny_server(tiny: Tiny, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("tiny")
    tiny.write(folder / "models")
    with launch(
        folder / "models", grpc_port=free_port(), metrics_port=free_port(), log_file=folder / "triton.log", threads=1
    ) as server:
        yield server


@pytest.fixture
def start(runtime: Runtime, tmp_path: Path) -> Callable[[Path], None]:
    """Start a server and stop it; for repositories that must be refused."""

    def run(repository: Path) -> None:
        with launch(repository, grpc_port=free_port(), log_file=tmp_path / "triton.log"):
            pass

    return run


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that nginx's workers may look into, which pytest's are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
def kept(nginx, tmp_path, public, monkeypatch):
    """Start nginx with settings, and nothing behind it; gives the front, its status, and what it was made from."""
    monkeypatch.setattr("salf_serving.kept_front._LOOK_S", 0.0)
    running = []

    def start(*, triton_port: int | None = None, **settings) -> tuple[KeptFront, Status, Front]:
        folder = tmp_path / "run"
        folder.mkdir()
        front = Front(
            nginx=nginx,
            settings=FrontSettings(**settings),
            files=FrontFiles(
                folder=folder, ready=public / "ready", access_log=tmp_path / "a.log", error_log=tmp_path / "e.log"
            ),
            port=free_port(),
            triton_port=triton_port or free_port(),
            control_key="KEY",
        )
        status = Status()
        one = KeptFront(front, status, stop_timeout_s=15)
        running.append(one)
        one.prepare()
        one.start()
        status.set_problem("start", None)
        return one, status, front

    yield start
    for one in running:
        one.drain_and_stop()


@pytest.fixture
def good(tiny):
    """A right request, and a check of its answer."""
    images, targets = tiny.images(1), np.full((1, 1), -1, np.int32)

    def ask(stub, **options) -> tuple:
        answer, call = stub.ModelInfer.with_call(infer_request(images, targets), timeout=20, **options)
        assert is_right(answer, tiny.answers(images, targets))
        return call.initial_metadata()

    return ask
