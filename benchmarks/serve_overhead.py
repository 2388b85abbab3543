"""What serving costs: Triton over gRPC against the same graph in this process, pixel input, on the same cores.

Throughput: 8 callers against the server, which batches what waits together, over whole batches of 8 run in a loop.
Latency: one caller against the server, less one picture at a time in the loop. Callers run on the same cores as the
server, and their cost (sending, receiving) counts as the server's. In process, ONNX Runtime's threads spin or sleep
while they wait, whichever is faster; in the server they spin for a moment, and then sleep.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tritonclient.grpc as triton
from numpy.typing import NDArray
from onnx import ModelProto

from benchmarks.interleaved import time_interleaved
from benchmarks.networks import CLASSES, CONCEPTS, SIZE, THREADS, Network, load
from benchmarks.processor_time import cpu_ms_since, cpu_seconds
from benchmarks.report import CannotMeasureError, Result
from benchmarks.served_models import LARGE, SMALL, make_model, publish_model
from demonstration.paths import MODEL_NAME, REPOSITORY
from salf_contract import PREDICTED_CLASS
from salf_export.artefacts import make_artefact
from salf_export.kinds import Kind
from salf_serving import ServingError, free_port, launch
from salf_serving.load import closed_loop, infer_request

#: The demonstration's explain model, as it is committed: a fraction of a millisecond at 112 px.
DEMONSTRATION = REPOSITORY / MODEL_NAME
BATCH = 8
_ROUNDS, _MEASURE_S, _WARM_UP_S = 7, 6.0, 1.0
_CHOOSING_ROUNDS = 15
_TOLERANCE = 1e-3
_PARTS = ("callers", "triton", "backend", "in_process")

_Arrays = dict[str, NDArray[Any]]
_Run = Callable[[_Arrays], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class _Model:
    """A folder of a model repository, and the same graph in this process."""

    folder: Path
    size: int
    run: _Run


@dataclass(frozen=True)
class _Contest:
    """One model served and in process: throughputs in pictures/s, median latencies in ms, round by round.

    `cpu_ms` is processor time of a picture at concurrency 8, summed over cores: who spends it, or "in_process".
    """

    served_rate: tuple[float, ...]
    loop_rate: tuple[float, ...]
    served_p50_ms: tuple[float, ...]
    loop_p50_ms: tuple[float, ...]
    cpu_ms: Mapping[str, float]

    def ratio(self) -> tuple[float, tuple[float, float]]:
        ratios = [served / loop for served, loop in zip(self.served_rate, self.loop_rate, strict=True)]
        return statistics.median(ratios), (min(ratios), max(ratios))

    def added_ms(self) -> tuple[float, tuple[float, float]]:
        added = [served - loop for served, loop in zip(self.served_p50_ms, self.loop_p50_ms, strict=True)]
        return statistics.median(added), (min(added), max(added))


def measure(*, quick: bool = False) -> Result:
    """Serve one model after the other.

    Raises:
        CannotMeasureError: served answers differ from those in process, or the server cannot be started.
    """
    rounds, measure_s = (2, 1.0) if quick else (_ROUNDS, _MEASURE_S)
    figures: dict[str, float] = {}
    spread: dict[str, tuple[float, float]] = {}
    notes: dict[str, float] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="salf-overhead-") as folder:
            published = partial(_published, Path(folder))
            makers: dict[str, Callable[[], _Model]] = {
                "resnet50": partial(published, "resnet50", LARGE, Kind()),
                "small": partial(published, "small", SMALL, Kind("onnxruntime", "int8")),
                "openvino_small": partial(published, "openvino_small", SMALL, Kind("openvino", "int8")),
                "demonstration": _demonstration,
            }
            for name, make in makers.items():
                contest = _contest(make(), rounds=rounds, measure_s=measure_s)
                figures[f"{name}_throughput_ratio"], spread[f"{name}_throughput_ratio"] = contest.ratio()
                added = "added_p50_ms" if name == "small" else f"{name}_added_p50_ms"
                figures[added], spread[added] = contest.added_ms()
                notes[f"{name}_served_pictures_per_s"] = statistics.median(contest.served_rate)
                notes[f"{name}_in_process_pictures_per_s"] = statistics.median(contest.loop_rate)
                notes[f"{name}_served_p50_ms"] = statistics.median(contest.served_p50_ms)
                notes[f"{name}_in_process_p50_ms"] = statistics.median(contest.loop_p50_ms)
                notes |= {f"{name}_{who}_cpu_ms": spent for who, spent in contest.cpu_ms.items()}
    except ServingError as error:
        raise CannotMeasureError(str(error)) from error
    return Result(
        name="serve_overhead",
        runs={
            "rounds": rounds,
            "seconds": measure_s,
            "interleaved": "each round measures served and in process, at concurrency 8 and 1, in turn",
            "figure": "median of the rounds; spread: smallest and largest round",
            "threads": THREADS,
            "cpu_ms": "processor time of a picture at concurrency 8, over all cores",
            "callers": "in the same process and on the same cores; their cost counts as the server's",
        },
        figures=figures,
        spread=spread,
        notes=notes,
    )


def check_answers(served: Mapping[str, NDArray[Any]], local: Mapping[str, NDArray[Any]]) -> None:
    """Served answers must be those of the graph in process, and not empty.

    Raises:
        CannotMeasureError: they differ.
    """
    for name, wanted in local.items():
        got = served.get(name)
        if got is None or got.shape != wanted.shape or not wanted.size:
            raise CannotMeasureError(f"the served answer has {name} as {None if got is None else got.shape}")
        # Rounding may exchange neighbours of equal rank, and with them their scores and maps.
        if name in ("logits", "bias", "coverage", "target_class", "contract_id"):
            scale = max(1.0, float(np.abs(wanted).max()))
            if not np.abs(got.astype(np.float64) - wanted).max() <= _TOLERANCE * scale:
                raise CannotMeasureError(f"the served {name} differs from that in process")


def _contest(model: _Model, *, rounds: int, measure_s: float) -> _Contest:
    """Serve a model, and run its graph here."""
    one, many = _question(model.size, 1), _question(model.size, BATCH)
    with tempfile.TemporaryDirectory(prefix="salf-overhead-") as folder:
        repository = Path(folder) / "models"
        repository.mkdir()
        (repository / model.folder.name).symlink_to(model.folder)
        with launch(
            repository, grpc_port=free_port(), log_file=Path(folder) / "triton.log", threads=THREADS,
            startup_timeout_s=120.0,
        ) as server:  # fmt: skip
            check_answers(_ask(server.grpc_address, model.folder.name, one), model.run(one))
            request = infer_request(model.folder.name, one)
            results: dict[str, list[float]] = {key: [] for key in ("served", "loop", "served_p50", "loop_p50")}
            spent: dict[str, list[float]] = {who: [] for who in _PARTS}
            for _ in range(rounds):
                before = cpu_seconds(server.pid)
                busy = closed_loop(
                    server.grpc_address, request, concurrency=BATCH, warm_up_s=_WARM_UP_S, measure_s=measure_s
                )
                for who, ms in cpu_ms_since(before, server_pid=server.pid, pictures=busy.answered).items():
                    spent[who].append(ms)
                alone = closed_loop(
                    server.grpc_address, request, concurrency=1, warm_up_s=_WARM_UP_S, measure_s=measure_s
                )
                if busy.failures or alone.failures:
                    raise CannotMeasureError(f"requests failed: {busy.first_failure or alone.first_failure}")
                results["served"].append(busy.pictures_per_s)
                results["served_p50"].append(alone.percentile_ms(50))
                _loop(lambda: model.run(many), _WARM_UP_S)
                began_s = time.process_time()
                times_ms = _loop(lambda: model.run(many), measure_s)
                spent["in_process"].append(1e3 * (time.process_time() - began_s) / (BATCH * len(times_ms)))
                results["loop"].append(BATCH * len(times_ms) / (sum(times_ms) / 1e3))
                results["loop_p50"].append(statistics.median(_loop(lambda: model.run(one), measure_s)))
    return _Contest(
        served_rate=tuple(results["served"]),
        loop_rate=tuple(results["loop"]),
        served_p50_ms=tuple(results["served_p50"]),
        loop_p50_ms=tuple(results["loop_p50"]),
        cpu_ms={who: statistics.median(values) for who, values in spent.items()},
    )


def _loop(run: Callable[[], object], seconds: float) -> list[float]:
    """Milliseconds of each run."""
    times_ms = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        run()
        times_ms.append(1e3 * (time.perf_counter() - start))
    return times_ms


def _question(size: int, batch: int) -> _Arrays:
    pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    return {"image": pixels, "target": np.full((batch, 1), PREDICTED_CLASS, np.int32)}


def _ask(address: str, model: str, question: _Arrays) -> _Arrays:
    inputs = []
    for name, values in question.items():
        tensor = triton.InferInput(name, list(values.shape), "UINT8" if values.dtype == np.uint8 else "INT32")
        tensor.set_data_from_numpy(values)
        inputs.append(tensor)
    connection = triton.InferenceServerClient(address)
    try:
        answer = connection.infer(model, inputs)
        return {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}
    finally:
        connection.close()


def _published(folder: Path, name: str, network: Network, kind: Kind) -> _Model:
    """A network with random weights, exported and published."""
    size = {} if network is SMALL else {"concepts": CONCEPTS, "classes": CLASSES}
    graph, document = make_model(name, network, int8=kind.precision == "int8", **size)
    publish_model(folder, graph, document, kind=kind)
    run = make_artefact(graph, kind).session.run if kind.runtime == "openvino" else _faster(graph, size=SIZE)
    return _Model(folder / name, SIZE, run)


def _demonstration() -> _Model:
    version = max(int(path.name) for path in DEMONSTRATION.iterdir() if path.name.isdigit())
    graph = onnx.load(DEMONSTRATION / str(version) / "model.onnx")
    size = next(value for value in graph.graph.input if value.name == "image").type.tensor_type.shape.dim[1].dim_value
    return _Model(DEMONSTRATION, size, _faster(graph, size=size))


def _faster(graph: ModelProto, *, size: int) -> _Run:
    """The graph in ONNX Runtime with threads that spin or sleep while they wait: which is faster here and now."""

    def runner(*, spins: bool) -> _Run:
        session = load(graph, spins=spins)
        names = [item.name for item in session.get_outputs()]
        return lambda question: dict(zip(names, session.run(None, question), strict=True))

    many = _question(size, BATCH)
    runs = {"spin": runner(spins=True), "sleep": runner(spins=False)}
    contenders = {name: partial(run, many) for name, run in runs.items()}
    timings = time_interleaved(contenders, rounds=_CHOOSING_ROUNDS, warm_up=2)
    return runs[min(runs, key=timings.median_ms)]
