"""Triton with JPEG input against decoding and inference in this process, on the same cores.

served      JPEG files over gRPC into NAME_encoded, eight requests in flight
in_process  the same files decoded by a thread per core, ahead of ONNX Runtime on batches of eight: as good as a
            program of one's own gets without a server

The client sends messages serialised beforehand and only counts bytes of answers: its work is not Triton's.
"""

from __future__ import annotations

import io
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import service_pb2

from benchmarks.interleaved import time_interleaved
from benchmarks.report import CannotMeasureError, Result
from salf_contract import (
    ENCODED_INPUTS,
    ENCODED_OUTPUTS,
    EXPLAIN_INPUTS,
    EXPLAIN_OUTPUTS,
    METADATA_FILE,
    Metadata,
    Preparation,
    decode_picture,
    prepare,
)
from salf_export.backbone_graph import backbone_graph
from salf_export.folding import graph_head, linear_head
from salf_export.graphs import explain_graph
from salf_export.publishing import publish
from salf_export.repository import ModelFolder
from salf_export.triton_config import GRAPH_FILE, Role, ServingSettings, config_text
from salf_serving import ServingError, free_port, launch
from salf_training.backbone import BackboneSettings, build_backbone, feature_shape
from salf_training.model import SalfModel
from salf_training.scenes import draw_scene

NAME, SIZE, TOP, CONCEPTS, CLASSES = "model", 224, 16, 1000, 100
CONCURRENCY = BATCH = 8
#: Figure -> (timm backbone, pictures in a round). The small model is the harder case: decoding weighs more.
MODELS = {"throughput_ratio": ("tf_efficientnet_lite0", 64), "resnet50_throughput_ratio": ("resnet50", 16)}
_ROUNDS = 25
_PICTURES, _PICTURE_SIZE = 16, (500, 375)
_METHOD = "/inference.GRPCInferenceService/ModelInfer"


def measure(*, quick: bool = False) -> Result:
    """Measure both models.

    Raises:
        CannotMeasureError: the server does not start, or answers otherwise than this process.
    """
    files = jpegs(_PICTURES)
    figures: dict[str, float] = {}
    spread: dict[str, tuple[float, float]] = {}
    notes: dict[str, float] = {"jpeg_bytes": statistics.mean(len(file) for file in files)}
    rounds = 3 if quick else _ROUNDS
    for figure, (backbone, count) in MODELS.items():
        short = figure.removesuffix("throughput_ratio") + "{}"
        with served(backbone) as (address, graph, document), connected(address) as ask:
            local = InProcess(graph, document.preparation)
            check_answers(ask, local, files)
            work = [files[number % len(files)] for number in range(count)]
            requests = [request(file) for file in work]
            with ThreadPoolExecutor(CONCURRENCY) as callers:
                timings = time_interleaved(
                    {
                        "served": partial(_ask_all, callers, ask, requests),
                        "in_process": partial(local.explain, work),
                    },
                    rounds=rounds,
                    warm_up=2,
                )
            alone = [time_once(ask, requests[number % count]) for number in range(5 * rounds)]
        figures[figure], spread[figure] = timings.ratio("in_process", "served")
        for name in ("served", "in_process"):
            notes[short.format(f"{name}_pictures_per_s")] = 1e3 * count / timings.median_ms(name)
        notes[short.format("served_alone_p50_ms")] = 1e3 * statistics.median(alone)
        notes[short.format("in_process_alone_p50_ms")] = 1e3 * local.alone(work[0], rounds=rounds)
    return Result(
        name="encoded_path",
        runs={
            "rounds": rounds,
            "interleaved": "each round explains the same pictures served and in process, in shuffled order",
            "figure": "median of the rounds' throughput ratios, served / in process",
            "spread": "smallest and largest median of five consecutive blocks of rounds",
            "concurrency": CONCURRENCY,
        },
        figures=figures,
        spread=spread,
        notes=notes,
    )


class InProcess:
    """A program of one's own: decodes one batch ahead of inference."""

    def __init__(self, graph: bytes, preparation: Preparation) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _cores()
        # Threads that wait for the next operator must not take cores from the decoders (tried: it is faster so).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._preparation = preparation
        self._decoders = ThreadPoolExecutor(_cores())
        self._names = [item.name for item in self._session.get_outputs()]

    def explain(self, files: Sequence[bytes]) -> list[dict[str, NDArray[np.generic]]]:
        """Answers of batches, in order."""
        pixels = self._decoders.map(self._pixels, files)
        answers = []
        for start in range(0, len(files), BATCH):
            size = min(BATCH, len(files) - start)
            batch = np.stack([next(pixels) for _ in range(size)])
            feed = {"image": batch, "target": np.full((size, 1), -1, np.int32)}
            answers.append(dict(zip(self._names, self._session.run(None, feed), strict=True)))
        return answers

    def alone(self, file: bytes, *, rounds: int) -> float:
        """Median seconds of one picture."""
        times = []
        for _ in range(5 * rounds):
            start = time.perf_counter()
            self.explain([file])
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def _pixels(self, file: bytes) -> NDArray[np.uint8]:
        return prepare(decode_picture(file), self._preparation).pixels


def check_answers(ask: grpc.UnaryUnaryMultiCallable[bytes, bytes], local: InProcess, files: Sequence[bytes]) -> None:
    """Both must say the same before their speed is worth anything.

    Raises:
        CannotMeasureError: an output is empty, or differs.
    """
    for file in files[:4]:
        (expected,) = local.explain([file])
        answer = service_pb2.ModelInferResponse.FromString(ask(request(file)))
        for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
            wanted = expected.get(tensor.name)
            if wanted is None:
                continue
            got = np.frombuffer(raw, wanted.dtype).reshape(tuple(tensor.shape))
            if got.shape != wanted.shape or not np.allclose(got, wanted, rtol=1e-3, atol=1e-3):
                raise CannotMeasureError(f"output {tensor.name} is served otherwise than computed here")
        missing = set(expected) - {tensor.name for tensor in answer.outputs}
        if missing or not expected["top_maps"].any():
            raise CannotMeasureError(f"an answer is empty: {', '.join(sorted(missing)) or 'top_maps'}")


def request(file: bytes) -> bytes:
    """A serialised request for one picture's explanation."""
    message = service_pb2.ModelInferRequest(model_name=f"{NAME}_encoded")
    for name, datatype, raw in (
        ("encoded", "BYTES", len(file).to_bytes(4, "little") + file),
        ("target", "INT32", np.array([-1], np.int32).tobytes()),
    ):
        tensor = message.inputs.add()
        tensor.name, tensor.datatype = name, datatype
        tensor.shape.extend([1, 1])
        message.raw_input_contents.append(raw)
    serialised: bytes = message.SerializeToString()
    return serialised


@contextmanager
def connected(address: str) -> Iterator[grpc.UnaryUnaryMultiCallable[bytes, bytes]]:
    """A call that takes and gives serialised messages."""
    with grpc.insecure_channel(address) as channel:
        yield channel.unary_unary(_METHOD, request_serializer=bytes, response_deserializer=bytes)


@contextmanager
def served(backbone: str) -> Iterator[tuple[str, bytes, Metadata]]:
    """Serve a random model on a backbone: address, explain graph, document.

    Raises:
        CannotMeasureError: the server does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="salf-encoded-path-"))
    try:
        graph, document = write_models(folder / "models", backbone)
        with launch(folder / "models", grpc_port=free_port(), log_file=folder / "triton.log", threads=_cores(),
                    startup_timeout_s=180) as server:  # fmt: skip
            yield server.grpc_address, graph, document
    except ServingError as error:
        raise CannotMeasureError(str(error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_models(repository: Path, backbone: str) -> tuple[bytes, Metadata]:
    """NAME and NAME_encoded with random weights; returns the explain graph and its document."""
    preparation = Preparation(height=SIZE, width=SIZE)
    model = _random_model(backbone)
    head = graph_head(linear_head(model))
    _, rows, columns = feature_shape(model.backbone, height=SIZE, width=SIZE)
    document = Metadata(
        name=NAME,
        version=1,
        classes=tuple(f"class {number}" for number in range(CLASSES)),
        concepts=tuple(f"concept {number}" for number in range(CONCEPTS)),
        preparation=preparation,
        pooling="average",
        map_size=(rows, columns),
        top=TOP,
    )
    source = backbone_graph(model, preparation)
    graph = explain_graph(source, head, top=TOP, contract_id=document.contract_id_words()).SerializeToString()
    parts: tuple[tuple[str, Role, dict[str, bytes]], ...] = (
        (f"{NAME}_encoded", "encoded", {}),
        (NAME, "explain", {GRAPH_FILE: graph}),
    )
    publish(
        repository,
        1,
        [
            ModelFolder(
                name=name,
                config=config_text(
                    model_name=name,
                    role=role,
                    inputs=ENCODED_INPUTS if role == "encoded" else EXPLAIN_INPUTS,
                    outputs=ENCODED_OUTPUTS if role == "encoded" else EXPLAIN_OUTPUTS,
                    documents={1: document},
                    settings=ServingSettings(),
                ),
                files=files | {METADATA_FILE: document.to_json().encode()},
            )
            for name, role, files in parts
        ],
    )
    return graph, document


def jpegs(count: int) -> list[bytes]:
    """Drawn scenes at 500 x 375, the usual size of ImageNet's files, grainy enough to be as large as those."""
    random = np.random.default_rng(0)
    files = []
    for seed in range(count):
        scene = np.asarray(draw_scene(seed).image.resize(_PICTURE_SIZE), np.float64)
        grainy = (scene + random.normal(scale=12, size=scene.shape)).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(grainy).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def _ask_all(
    callers: ThreadPoolExecutor, ask: grpc.UnaryUnaryMultiCallable[bytes, bytes], requests: Sequence[bytes]
) -> int:
    """Send all requests, `CONCURRENCY` at a time; returns the bytes of their answers."""
    return sum(len(answer) for answer in callers.map(ask, requests))


def time_once(ask: grpc.UnaryUnaryMultiCallable[bytes, bytes], message: bytes) -> float:
    """Seconds of one request."""
    start = time.perf_counter()
    ask(message)
    return time.perf_counter() - start


def _random_model(name: str) -> SalfModel:
    torch.manual_seed(0)
    backbone = build_backbone(BackboneSettings(name=name))
    channels = feature_shape(backbone, height=SIZE, width=SIZE)[0]
    model = SalfModel(backbone, channels=channels, concepts=CONCEPTS, classes=CLASSES)
    model.pixel_mean.fill_(0.45)
    model.pixel_std.fill_(0.225)
    # Give BatchNorm statistics of its own inputs, so that features have ordinary sizes.
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()
    with torch.no_grad():
        model.features(torch.randint(0, 256, (4, SIZE, SIZE, 3), dtype=torch.uint8))
    model.eval()
    model.concept_weight.normal_(std=channels**-0.5)
    weights = torch.randn(CLASSES, CONCEPTS)
    model.head_weight.copy_(torch.where(torch.rand_like(weights) < 30 / CONCEPTS, weights, 0.0))
    return model


def _cores() -> int:
    return len(os.sched_getaffinity(0))
