"""What the SDK costs beside bare tritonclient: the same pixels, the same outputs, the same real server.

bare   tritonclient as its examples use it: tensors made, `infer`, every output read as an array
sdk    `Client.explain` of the same array: an explanation with names, checks and probabilities
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

from benchmarks.interleaved import spread_of_blocks
from benchmarks.report import CannotMeasureError, Result
from demonstration.paths import REPOSITORY
from salf_client import Client, Explanation
from salf_contract import EXPLAIN_OUTPUTS, PREDICTED_CLASS
from salf_serving import ServingError, free_port, launch

_OUTPUTS = tuple(spec.name for spec in EXPLAIN_OUTPUTS)
_ROUNDS, _CALLS = 120, 25


@dataclass
class _Times:
    """Of one contender.

    Attributes:
        calls_s: one list of wall times for each round.
        cpu_s: CPU time of this process, all threads, for each round.
    """

    calls_s: list[list[float]] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)


def measure(*, quick: bool = False) -> Result:
    """Time both against one server on the loopback.

    Raises:
        CannotMeasureError: no server can be started, or the answers differ.
    """
    rounds = 5 if quick else _ROUNDS
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            launch(REPOSITORY, grpc_port=free_port(), log_file=Path(folder) / "triton.log") as server,
            Client(server.grpc_address, model="scenes") as client,
        ):
            height, width = client.model().input_size
            pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
            connection = triton.InferenceServerClient(server.grpc_address)
            contenders: dict[str, Callable[[], object]] = {
                "bare": lambda: bare_answer(connection, "scenes", pixels),
                "sdk": lambda: client.explain(pixels),
            }
            check_answers(bare_answer(connection, "scenes", pixels), client.explain(pixels))
            times = _time(contenders, rounds=rounds)
            connection.close()
    except ServingError as error:
        raise CannotMeasureError(str(error)) from error
    return _result(times, rounds=rounds)


def bare_answer(
    connection: triton.InferenceServerClient, model: str, pixels: NDArray[np.uint8]
) -> dict[str, NDArray[np.generic]]:
    """One explained answer with tritonclient alone."""
    image = triton.InferInput("image", [1, *pixels.shape], "UINT8").set_data_from_numpy(pixels[np.newaxis])
    target = triton.InferInput("target", [1, 1], "INT32").set_data_from_numpy(np.array([[PREDICTED_CLASS]], np.int32))
    outputs = [triton.InferRequestedOutput(name) for name in _OUTPUTS]
    result = connection.infer(model, [image, target], outputs=outputs, client_timeout=30.0)
    return {name: result.as_numpy(name) for name in _OUTPUTS}


def check_answers(bare: dict[str, NDArray[np.generic]], explanation: Explanation) -> None:
    """Both must have got the same explanation, and one that says something.

    Raises:
        CannotMeasureError: they differ, or it is empty.
    """
    contributions = [concept.contribution for concept in explanation.concepts]
    expected = bare["top_contributions"][0, : len(contributions)]
    if not contributions or not np.allclose(contributions, expected, atol=1e-3):
        raise CannotMeasureError("the client's explanation differs from what the server sent")
    if not np.allclose(bare["logits"][0], explanation.logits, atol=1e-3) or not bare["top_maps"].any():
        raise CannotMeasureError("the logits differ, or the maps are empty")


def _time(contenders: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, _Times]:
    order, shuffled = list(contenders), random.Random(0)
    times = {name: _Times() for name in contenders}
    for number in range(rounds + 2):
        shuffled.shuffle(order)
        for name in order:
            call, walls = contenders[name], []
            cpu_started_s = time.process_time()
            for _ in range(_CALLS):
                started_s = time.perf_counter()
                call()
                walls.append(time.perf_counter() - started_s)
            if number >= 2:  # the first rounds warm up
                times[name].cpu_s.append(time.process_time() - cpu_started_s)
                times[name].calls_s.append(walls)
    return times


def _result(times: dict[str, _Times], *, rounds: int) -> Result:
    bare, sdk = times["bare"], times["sdk"]
    added_ms = [
        1e3 * (statistics.median(mine) - statistics.median(other))
        for mine, other in zip(sdk.calls_s, bare.calls_s, strict=True)
    ]
    ratios = [mine / other for mine, other in zip(sdk.cpu_s, bare.cpu_s, strict=True)]
    return Result(
        name="sdk_overhead",
        runs={
            "rounds": rounds,
            "interleaved": f"each round makes {_CALLS} calls of each, one contender after the other, in shuffled order",
            "figure": "median over rounds of the difference of the rounds' median times, or of the ratio of CPU times",
            "spread": "smallest and largest median of five consecutive blocks of rounds",
            "cpu": "of the client's process, all its threads; the server is another process",
        },
        figures={"added_p50_ms": statistics.median(added_ms), "cpu_ratio": statistics.median(ratios)},
        spread={"added_p50_ms": spread_of_blocks(added_ms), "cpu_ratio": spread_of_blocks(ratios)},
        notes={
            f"{name}_{what}": value
            for name, one in times.items()
            for what, value in (
                ("p50_ms", 1e3 * statistics.median(wall for walls in one.calls_s for wall in walls)),
                ("cpu_ms", 1e3 * statistics.median(one.cpu_s) / _CALLS),
            )
        },
    )
