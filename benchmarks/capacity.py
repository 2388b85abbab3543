"""What one picture costs the server: processor time, memory and bytes; the inputs of docs/capacity.md.

The demonstration repository behind a front, or that of SALF_CAPACITY_REPOSITORY. Times are processor time of all of
the server's processes, so other work on the machine disturbs them little.
"""

from __future__ import annotations

import io
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks.report import CannotMeasureError, Result
from benchmarks.supervised import anonymous_mb, processor_s, supervised
from demonstration import paths
from salf_contract import PREDICTED_CLASS, decode_picture, parse_metadata, prepare
from salf_serving import free_port, launch
from salf_serving.guard import SHARED_MEMORY

REPOSITORY = Path(os.environ.get("SALF_CAPACITY_REPOSITORY", paths.REPOSITORY))
#: Width and height of photographs that are sent as JPEGs.
PHOTOGRAPHS = {"vga": (640, 480), "12mp": (4000, 3000)}
_IN_FLIGHT = 4
_FRONT = "max_request_bytes = 16_777_216\n"


def measure(*, quick: bool = False) -> Result:
    """Ask for pixels and for photographs in turns, then start what tries new versions.

    Raises:
        CannotMeasureError: no nginx or runtime, no encoded model, or an answer that fails or is wrong.
    """
    rounds, requests = (2, 8) if quick else (7, 60)
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    with tempfile.TemporaryDirectory(prefix="salf-bench-") as name:
        folder = Path(name)
        shutil.copytree(REPOSITORY, folder / "models")
        with supervised(folder / "models", folder, front=_FRONT, cores=cores) as (address, pid):
            return _measured(folder, address, pid, rounds=rounds, requests=requests)


def _measured(folder: Path, address: str, pid: int, *, rounds: int, requests: int) -> Result:
    asked = _requests(folder / "models")
    seen: dict[str, list[float]] = {kind: [] for kind in asked}
    figures = {"memory_idle_mb": anonymous_mb(pid)}
    with grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answers = {kind: stub.ModelInfer(request, timeout=60) for kind, request in asked.items()}
        _check(answers)
        for kind, request in asked.items():  # warm-up
            _ask(stub, request, 2 * _IN_FLIGHT)
            figures[f"{kind}_request_bytes"] = float(request.ByteSize())
            figures[f"{kind}_answer_bytes"] = float(answers[kind].ByteSize())
        log_file = next(folder.glob("front-*[0-9].log"))
        with _peak(lambda: anonymous_mb(pid)) as memory:
            for _ in range(rounds):
                for kind, request in asked.items():
                    before_s = processor_s(pid)
                    _ask(stub, request, requests)
                    seen[kind].append(1000 * (processor_s(pid) - before_s) / requests)
            figures["memory_loaded_mb"] = memory()
        time.sleep(1.5)  # nginx writes its log once a second
        lines = log_file.read_bytes().splitlines(keepends=True)
    figures["log_bytes_per_request"] = statistics.mean(map(len, lines))
    figures["shared_memory_mb"] = sum(path.stat().st_blocks for path in SHARED_MEMORY.glob(f"salf_{pid}_*")) / 2048
    # A new version is tried in a Triton of its own, started just so.
    with launch(folder / "models", grpc_port=free_port(), log_file=folder / "trial.log", threads=1) as trial:
        figures["memory_trial_mb"] = anonymous_mb(trial.pid)
    costs = {f"{kind}_cpu_ms": statistics.median(times) for kind, times in seen.items()}
    return Result(
        name="capacity",
        runs={"rounds": rounds, "requests": requests, "interleaved": "each round asks all kinds in turn",
              "in_flight": _IN_FLIGHT, "repository": REPOSITORY.name},
        figures=costs | figures,
        spread={f"{kind}_cpu_ms": (min(times), max(times)) for kind, times in seen.items()},
    )  # fmt: skip


def _requests(models: Path) -> dict[str, service_pb2.ModelInferRequest]:
    """The same questions as pixels and as photographs."""
    encoded = next((path for path in sorted(models.iterdir()) if path.name.endswith("_encoded")), None)
    if encoded is None:
        raise CannotMeasureError(f"{REPOSITORY} has no encoded model; export it again")
    document = parse_metadata(next(encoded.glob("*/metadata.json")).read_bytes())
    photographs = {kind: _photograph(*size) for kind, size in PHOTOGRAPHS.items()}
    pixels = prepare(decode_picture(photographs["vga"]), document.preparation).pixels[None]
    requests = {"pixels": _request(document.name, "image", "UINT8", pixels.shape, pixels.tobytes())}
    for kind, data in photographs.items():
        raw = len(data).to_bytes(4, "little") + data
        requests[kind] = _request(encoded.name, "encoded", "BYTES", (1, 1), raw)
    return requests


def _request(model: str, name: str, datatype: str, shape: Sequence[int], raw: bytes) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.inputs.add(name="target", datatype="INT32", shape=(1, 1))
    request.raw_input_contents.extend([raw, np.full((1, 1), PREDICTED_CLASS, np.int32).tobytes()])
    return request


def _photograph(width: int, height: int) -> bytes:
    """A JPEG with some detail everywhere, as large as a camera's."""
    random = np.random.default_rng(5)
    coarse = Image.fromarray(random.integers(0, 256, (height // 40, width // 40, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = pixels + random.integers(-6, 7, pixels.shape, dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _check(answers: dict[str, service_pb2.ModelInferResponse]) -> None:
    """The same picture as pixels and as a file has the same answer, to the bit."""
    logits = [
        dict(zip((one.name for one in answers[kind].outputs), answers[kind].raw_output_contents, strict=True))["logits"]
        for kind in ("pixels", "vga")
    ]
    if logits[0] != logits[1] or not np.isfinite(np.frombuffer(logits[0], np.float32)).all():
        raise CannotMeasureError("a picture and its file have different answers")


def _ask(stub: service_pb2_grpc.GRPCInferenceServiceStub, request: service_pb2.ModelInferRequest, times: int) -> None:
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        for _ in pool.map(lambda _: stub.ModelInfer(request, timeout=60), range(times)):
            pass


@contextmanager
def _peak(read: Callable[[], float]) -> Iterator[Callable[[], float]]:
    """The largest value that a reading has had since the block began."""
    stop, seen = threading.Event(), [read()]

    def watch() -> None:
        while not stop.wait(0.2):
            seen.append(read())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: max(seen)
    finally:
        stop.set()
        thread.join()
