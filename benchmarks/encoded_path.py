"""Triton with JPEG input against decoding and inference in this process, on the same cores.

served      JPEG files over gRPC into NAME_encoded, eight requests in flight; it asks the explain model itself (BLS)
ensemble    the same, but a bare decoding step and the explain model in an ensemble: what the choice of BLS costs
in_process  the same files decoded by a thread per core, ahead of ONNX Runtime on batches of four or eight, whichever
            is faster: as good as a program of one's own gets without a server

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
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import service_pb2

from benchmarks.ensemble import add_ensemble
from benchmarks.interleaved import time_interleaved
from benchmarks.networks import Network
from benchmarks.processor_time import cpu_ms_since, cpu_seconds
from benchmarks.report import CannotMeasureError, Result
from benchmarks.served_models import LARGE, SMALL, make_model, publish_model
from salf_client.messages import infer_request
from salf_contract import PREDICTED_CLASS, Preparation, decode_picture, prepare
from salf_serving import RunningServer, ServingError, free_port, launch
from salf_training.scenes import draw_scene

NAME = "model"
CONCURRENCY = 8
#: What the program of one's own may choose from. What a small network computes on four pictures stays in the caches.
BATCHES = (4, 8)
_CHOOSING_ROUNDS = 5
#: Figure -> (network, pictures in a round). The small model is the harder case: decoding weighs more.
MODELS = {"throughput_ratio": (SMALL, 64), "resnet50_throughput_ratio": (LARGE, 16)}
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
    for figure, (network, count) in MODELS.items():
        short = figure.removesuffix("throughput_ratio") + "{}"
        with served(network) as (server, graph, preparation), connected(server.grpc_address) as ask:
            local = InProcess(graph, preparation)
            work = [files[number % len(files)] for number in range(count)]
            local.choose_batch(work)
            requests = {way: [request(file, f"{NAME}_{way}") for file in work] for way in ("encoded", "ensemble")}
            for way in requests:
                check_answers(ask, local, files, f"{NAME}_{way}")
            with ThreadPoolExecutor(CONCURRENCY) as callers:
                timings = time_interleaved(
                    {
                        "served": partial(_ask_all, callers, ask, requests["encoded"]),
                        "ensemble": partial(_ask_all, callers, ask, requests["ensemble"]),
                        "in_process": partial(local.explain, work),
                    },
                    rounds=rounds,
                    warm_up=2,
                )
                before = cpu_seconds(server.pid)
                for _ in range(rounds):
                    _ask_all(callers, ask, requests["encoded"])
                spent = cpu_ms_since(before, server_pid=server.pid, pictures=rounds * count)
                began_s = time.process_time()
                for _ in range(rounds):
                    local.explain(work)
                spent["in_process"] = 1e3 * (time.process_time() - began_s) / (rounds * count)
                spent["in_process_decoding"] = local.decoding_cpu_ms(files, rounds=rounds)
            alone = [time_once(ask, requests["encoded"][number % count]) for number in range(5 * rounds)]
        figures[figure], spread[figure] = timings.ratio("in_process", "served")
        over = short.format("bls_over_ensemble")
        figures[over], spread[over] = timings.ratio("ensemble", "served")
        for name in ("served", "ensemble", "in_process"):
            notes[short.format(f"{name}_pictures_per_s")] = 1e3 * count / timings.median_ms(name)
        notes |= {short.format(f"{who}_cpu_ms"): ms for who, ms in spent.items()}
        notes[short.format("in_process_batch")] = local.batch
        notes[short.format("served_alone_p50_ms")] = 1e3 * statistics.median(alone)
        notes[short.format("in_process_alone_p50_ms")] = 1e3 * local.alone(work[0], rounds=rounds)
    return Result(
        name="encoded_path",
        runs={
            "rounds": rounds,
            "interleaved": "each round explains the same pictures served and in process, in shuffled order",
            "figure": "median of the rounds' throughput ratios, served / in process or over the ensemble",
            "spread": "smallest and largest median of five consecutive blocks of rounds",
            "concurrency": CONCURRENCY,
            "cpu_ms": "processor time of a picture, over all cores, by who spends it; in_process holds its decoding",
        },
        figures=figures,
        spread=spread,
        notes=notes,
    )


class InProcess:
    """A program of one's own: decodes ahead of inference.

    Attributes:
        batch: pictures in one run of the graph.
    """

    def __init__(self, graph: bytes, preparation: Preparation) -> None:
        self.batch = max(BATCHES)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _cores()
        # Threads that wait for the next operator must not take cores from the decoders (tried: it is faster so).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._preparation = preparation
        self._decoders = ThreadPoolExecutor(_cores())
        self._names = [item.name for item in self._session.get_outputs()]

    def choose_batch(self, files: Sequence[bytes]) -> None:
        """Take the batches that are fastest here and now."""
        contenders = {str(batch): partial(self._explain, files, batch) for batch in BATCHES}
        timings = time_interleaved(contenders, rounds=_CHOOSING_ROUNDS, warm_up=2)
        self.batch = int(min(contenders, key=timings.median_ms))

    def explain(self, files: Sequence[bytes]) -> list[dict[str, NDArray[np.generic]]]:
        """Answers of batches, in order."""
        return self._explain(files, self.batch)

    def alone(self, file: bytes, *, rounds: int) -> float:
        """Median seconds of one picture."""
        times = []
        for _ in range(5 * rounds):
            start = time.perf_counter()
            self.explain([file])
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def decoding_cpu_ms(self, files: Sequence[bytes], *, rounds: int) -> float:
        """Processor time of a picture from its file to pixels."""
        start = time.process_time()
        for _ in range(rounds):
            for file in files:
                self._pixels(file)
        return 1e3 * (time.process_time() - start) / (rounds * len(files))

    def _explain(self, files: Sequence[bytes], batch: int) -> list[dict[str, NDArray[np.generic]]]:
        pixels = self._decoders.map(self._pixels, files)
        answers = []
        for start in range(0, len(files), batch):
            size = min(batch, len(files) - start)
            image = np.stack([next(pixels) for _ in range(size)])
            feed = {"image": image, "target": np.full((size, 1), PREDICTED_CLASS, np.int32)}
            answers.append(dict(zip(self._names, self._session.run(None, feed), strict=True)))
        return answers

    def _pixels(self, file: bytes) -> NDArray[np.uint8]:
        return prepare(decode_picture(file), self._preparation).pixels


def check_answers(
    ask: grpc.UnaryUnaryMultiCallable[bytes, bytes], local: InProcess, files: Sequence[bytes], model: str
) -> None:
    """Both must say the same before their speed is worth anything.

    Raises:
        CannotMeasureError: an output is empty, or differs.
    """
    for file in files[:4]:
        (expected,) = local.explain([file])
        answer = service_pb2.ModelInferResponse.FromString(ask(request(file, model)))
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


def request(file: bytes, model: str) -> bytes:
    """A serialised request for one picture's explanation."""
    inputs = {"encoded": np.array([[file]], dtype=object), "target": np.full((1, 1), PREDICTED_CLASS, np.int32)}
    return infer_request(model, inputs, outputs=())


@contextmanager
def connected(address: str) -> Iterator[grpc.UnaryUnaryMultiCallable[bytes, bytes]]:
    """A call that takes and gives serialised messages."""
    with grpc.insecure_channel(address) as channel:
        yield channel.unary_unary(_METHOD, request_serializer=bytes, response_deserializer=bytes)


@contextmanager
def served(network: Network) -> Iterator[tuple[RunningServer, bytes, Preparation]]:
    """Serve a random model in both ways: the server, the explain graph, how pictures are prepared.

    Raises:
        CannotMeasureError: the server does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="salf-encoded-path-"))
    try:
        graph, document = make_model(NAME, network)
        publish_model(folder / "models", graph, document, encoded=True)
        add_ensemble(folder / "models", document)
        with launch(folder / "models", grpc_port=free_port(), log_file=folder / "triton.log", threads=_cores(),
                    startup_timeout_s=180) as server:  # fmt: skip
            yield server, graph.SerializeToString(), document.preparation
    except ServingError as error:
        raise CannotMeasureError(str(error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


def _cores() -> int:
    return len(os.sched_getaffinity(0))
