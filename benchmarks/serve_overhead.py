"""What serving costs: Triton over gRPC against the same graph in this process, pixel input, on the same cores.

Throughput: 8 callers against the server, which batches what waits together, over whole batches of 8 run in a loop.
Latency: one caller against the server, less one picture at a time in the loop. Callers run on the same cores as the
server, and their cost (serialising, sending, receiving) counts as the server's.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import tritonclient.grpc as triton
from numpy.typing import NDArray

from benchmarks.networks import CLASSES, CONCEPTS, RESNET_50, SIZE, THREADS, TOP, backbone_of, graphs, random_model
from benchmarks.report import CannotMeasureError, Result
from salf_contract import EXPLAIN_INPUTS, EXPLAIN_OUTPUTS, PREDICTED_CLASS, Metadata, Preparation
from salf_export.triton_config import ServingSettings, config_text
from salf_serving import ServingError, free_port, launch
from salf_serving.load import closed_loop, infer_request

#: The small model: the demonstration's explain model, as it is committed.
SMALL_MODEL = Path(__file__).parents[1] / "model_repository" / "scenes"
BATCH = 8
_ROUNDS, _MEASURE_S, _WARM_UP_S = 7, 6.0, 1.0
_TOLERANCE = 1e-3

_Arrays = dict[str, NDArray[Any]]


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
    """Serve a ResNet-50 and the small model in turn.

    Raises:
        CannotMeasureError: served answers differ from those in process, or the server cannot be started.
    """
    rounds, measure_s = (2, 1.0) if quick else (_ROUNDS, _MEASURE_S)
    try:
        with tempfile.TemporaryDirectory(prefix="salf-overhead-") as folder:
            large = _contest(_write_resnet(Path(folder)), rounds=rounds, measure_s=measure_s)
            small = _contest(SMALL_MODEL, rounds=rounds, measure_s=measure_s)
    except ServingError as error:
        raise CannotMeasureError(str(error)) from error
    measured = {
        "resnet50_throughput_ratio": large.ratio(),
        "small_throughput_ratio": small.ratio(),
        "added_p50_ms": small.added_ms(),
        "resnet50_added_p50_ms": large.added_ms(),
    }
    notes = {}
    for name, contest in (("resnet50", large), ("small", small)):
        notes[f"{name}_served_pictures_per_s"] = statistics.median(contest.served_rate)
        notes[f"{name}_in_process_pictures_per_s"] = statistics.median(contest.loop_rate)
        notes[f"{name}_served_p50_ms"] = statistics.median(contest.served_p50_ms)
        notes[f"{name}_in_process_p50_ms"] = statistics.median(contest.loop_p50_ms)
        notes |= {f"{name}_{who}_cpu_ms": spent for who, spent in contest.cpu_ms.items()}
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
        figures={name: value for name, (value, _) in measured.items()},
        spread={name: spread for name, (_, spread) in measured.items()},
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


def _contest(model: Path, *, rounds: int, measure_s: float) -> _Contest:
    """Serve one model folder's newest version, and run its graph here."""
    version = max(int(path.name) for path in model.iterdir() if path.name.isdigit())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    # The server's session sleeps while this one is timed, and the other way round.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model / str(version) / "model.onnx", options)
    one, many = _question(session, 1), _question(session, BATCH)
    with tempfile.TemporaryDirectory(prefix="salf-overhead-") as folder:
        repository = Path(folder) / "models"
        repository.mkdir()
        (repository / model.name).symlink_to(model)
        with launch(
            repository, grpc_port=free_port(), log_file=Path(folder) / "triton.log", threads=THREADS,
            startup_timeout_s=120.0,
        ) as server:  # fmt: skip
            names = [item.name for item in session.get_outputs()]
            local = dict(zip(names, session.run(None, one), strict=True))
            check_answers(_ask(server.grpc_address, model.name, one), local)
            request = infer_request(model.name, one)
            results: dict[str, list[float]] = {key: [] for key in ("served", "loop", "served_p50", "loop_p50")}
            spent: dict[str, list[float]] = {who: [] for who in ("callers", "triton", "backend", "in_process")}
            for _ in range(rounds):
                before = _cpu_seconds(server.pid)
                load = closed_loop(
                    server.grpc_address, request, concurrency=BATCH, warm_up_s=_WARM_UP_S, measure_s=measure_s
                )
                for who, seconds in _cpu_seconds(server.pid).items():
                    spent[who].append(1e3 * (seconds - before[who]) / max(1, load.answered))
                alone = closed_loop(
                    server.grpc_address, request, concurrency=1, warm_up_s=_WARM_UP_S, measure_s=measure_s
                )
                if load.failures or alone.failures:
                    raise CannotMeasureError(f"requests failed: {load.first_failure or alone.first_failure}")
                results["served"].append(load.pictures_per_s)
                results["served_p50"].append(alone.percentile_ms(50))
                _loop(lambda: session.run(None, many), _WARM_UP_S)
                began_s = time.process_time()
                times_ms = _loop(lambda: session.run(None, many), measure_s)
                spent["in_process"].append(1e3 * (time.process_time() - began_s) / (BATCH * len(times_ms)))
                results["loop"].append(BATCH * len(times_ms) / (sum(times_ms) / 1e3))
                results["loop_p50"].append(statistics.median(_loop(lambda: session.run(None, one), measure_s)))
    return _Contest(
        served_rate=tuple(results["served"]),
        loop_rate=tuple(results["loop"]),
        served_p50_ms=tuple(results["served_p50"]),
        loop_p50_ms=tuple(results["loop_p50"]),
        cpu_ms={who: statistics.median(values) for who, values in spent.items()},
    )


def _cpu_seconds(server_pid: int) -> dict[str, float]:
    """Processor time so far, in seconds: of this process, of Triton, and of its Python stubs."""
    found = {"callers": time.process_time(), "triton": 0.0, "backend": 0.0}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # pid (name) state parent ... utime and stime are the 14th and 15th; a name may hold spaces.
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if path.parent.name == str(server_pid):
            found["triton"] += seconds
        elif fields[1] == str(server_pid):
            found["backend"] += seconds
    return found


def _loop(run: Callable[[], object], seconds: float) -> list[float]:
    """Milliseconds of each run."""
    times_ms = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        run()
        times_ms.append(1e3 * (time.perf_counter() - start))
    return times_ms


def _question(session: onnxruntime.InferenceSession, batch: int) -> _Arrays:
    shape = next(item.shape for item in session.get_inputs() if item.name == "image")
    pixels = np.random.default_rng(0).integers(0, 256, (batch, *shape[1:]), dtype=np.uint8)
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


def _write_resnet(folder: Path) -> Path:
    """A model folder with the explain graph of a ResNet-50."""
    document = Metadata(
        name="resnet50",
        version=1,
        classes=tuple(f"class {number}" for number in range(CLASSES)),
        concepts=tuple(f"concept {number}" for number in range(CONCEPTS)),
        preparation=Preparation(height=SIZE, width=SIZE),
        pooling="average",
        map_size=(RESNET_50.cells, RESNET_50.cells),
        top=TOP,
    )
    model = random_model(RESNET_50)
    target = folder / "resnet50"
    (target / "1").mkdir(parents=True)
    graph = graphs(model, backbone_of(model))["explain"]
    (target / "1" / "model.onnx").write_bytes(graph.SerializeToString())
    config = config_text(
        model_name="resnet50", role="explain", inputs=EXPLAIN_INPUTS, outputs=EXPLAIN_OUTPUTS,
        documents={1: document}, settings=ServingSettings(max_batch_size=BATCH),
    )  # fmt: skip
    (target / "config.pbtxt").write_text(config)
    return target
