"""What `salf score` reaches of what the slower of its two halves could do alone, on the same cores.

One core belongs to the server, the others to scoring, in all three contenders:

decode   pictures are read and prepared, by as many threads as scoring has; nothing is asked
infer    pixels that are prepared already are asked for, by the client, as many at a time as when scoring
score    `salf_batch.score` from files to a Parquet dataset
"""

import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.report import CannotMeasureError, Result
from demonstration.paths import REPOSITORY
from salf_batch import Settings, score
from salf_client import AsyncClient, Client
from salf_contract import Preparation, decode_picture, prepare
from salf_serving import ServingError, free_port, launch

_ROUNDS, _PICTURES, _SIZE = 15, 400, (1600, 1200)
_FEW, _MANY, _SMALL = 1000, 50_000, (320, 240)


def measure(*, quick: bool = False) -> Result:
    """Time all three in shuffled order, then the memory of two runs of the command.

    Raises:
        CannotMeasureError: no server can be started, there is one core only, or rows are missing.
    """
    rounds, pictures = (2, 100) if quick else (_ROUNDS, _PICTURES)
    few, many = (100, 400) if quick else (_FEW, _MANY)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise CannotMeasureError("two cores are needed: one for the server, one for scoring")
    try:
        with tempfile.TemporaryDirectory() as name, _server_on(cores[:1], Path(name)) as url:
            os.sched_setaffinity(0, cores[1:])
            files = _write_pictures(Path(name) / "pictures", pictures, _SIZE)
            small = _write_pictures(Path(name) / "small", 20, _SMALL)
            settings = Settings(url=url, shard_size=pictures)
            rates = _rates(files, settings, Path(name), rounds=rounds)
            peaks = [_peak_kib(small, count, url, Path(name)) for count in (few, many)]
    except ServingError as error:
        raise CannotMeasureError(str(error)) from error
    finally:
        os.sched_setaffinity(0, cores)
    ratios = [
        full / min(decode, infer)
        for full, decode, infer in zip(rates["score"], rates["decode"], rates["infer"], strict=True)
    ]
    growth = peaks[1] / peaks[0] - 1
    return Result(
        name="batch_scoring",
        runs={
            "rounds": rounds,
            "interleaved": f"each round does {pictures} JPEGs of {_SIZE[0]} x {_SIZE[1]} with each contender, shuffled",
            "cores": f"server on {len(cores[:1])}, scoring on {len(cores[1:])}, the same for all contenders",
            "throughput_ratio": "median over rounds of score / min(decode, infer), in pictures/s",
            "rss_growth": f"peak RssAnon of `salf score` with {many} inputs over that with {few}, minus 1; one run",
        },
        figures={"throughput_ratio": statistics.median(ratios), "rss_growth": growth},
        spread={"throughput_ratio": (min(ratios), max(ratios)), "rss_growth": (growth, growth)},
        notes={
            **{f"{name}_per_s": statistics.median(values) for name, values in rates.items()},
            f"rss_{few}_mib": peaks[0] / 1024,
            f"rss_{many}_mib": peaks[1] / 1024,
        },
    )


@contextmanager
def _server_on(cores: list[int], folder: Path) -> Iterator[str]:
    """A server that inherits the cores, one thread an inference."""
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        with launch(REPOSITORY, grpc_port=free_port(), log_file=folder / "triton.log", threads=len(cores)) as server:
            os.sched_setaffinity(0, all_cores)
            yield server.grpc_address
    finally:
        os.sched_setaffinity(0, all_cores)


def _write_pictures(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Smooth random photographs, all different."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    files = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        files.append(folder / f"{number:05d}.jpg")
        coarse.resize(size, Image.Resampling.BICUBIC).save(files[-1], quality=90)
    return files


def _rates(files: list[Path], settings: Settings, folder: Path, *, rounds: int) -> dict[str, list[float]]:
    """Pictures per second of each contender, round by round."""
    with Client(settings.url) as client:
        height, width = client.model().input_size
    preparation = Preparation(height=height, width=width)
    threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        pixels = list(pool.map(lambda path: _prepared(path, preparation), files))

        labels = dict(asyncio.run(_inferred(pixels, settings)))

        def scored() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as target:
                summary = score(str(files[0].parent), f"{target}/rows", replace(settings, decoders=threads))
            if summary.scored != len(files) or summary.errors:
                raise CannotMeasureError(f"{summary.errors} errors in {summary.scored} rows of {len(files)}")
            if summary.labels != labels:
                raise CannotMeasureError(f"scored as {summary.labels}, but asked alone they are {labels}")

        contenders: dict[str, Callable[[], object]] = {
            "decode": lambda: sum(1 for _ in pool.map(lambda path: _prepared(path, preparation), files)),
            "infer": lambda: asyncio.run(_inferred(pixels, settings)),
            "score": scored,
        }
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        order, shuffled = list(contenders), random.Random(0)
        for number in range(rounds + 1):
            shuffled.shuffle(order)
            for name in order:
                started_s = time.perf_counter()
                contenders[name]()
                if number >= 1:  # the first round warms up
                    rates[name].append(len(files) / (time.perf_counter() - started_s))
    return rates


def _prepared(path: Path, preparation: Preparation) -> NDArray[np.uint8]:
    return prepare(decode_picture(path.read_bytes()), preparation).pixels


async def _inferred(pixels: list[NDArray[np.uint8]], settings: Settings) -> Counter[str]:
    """Ask for all pictures; class -> how many are predicted to be of it."""
    labels: Counter[str] = Counter()
    async with AsyncClient(settings.url) as client:
        async for outcome in client.explain_many(pixels, top=5, in_flight=settings.in_flight):
            explanation = outcome.get()
            if not explanation.concepts:
                raise CannotMeasureError("an explanation is empty")
            labels[explanation.label] += 1
    return labels


def _peak_kib(files: list[Path], count: int, url: str, folder: Path) -> int:
    """Highest RssAnon of `salf score` over a manifest that repeats the pictures."""
    manifest = folder / f"{count}.txt"
    manifest.write_text("".join(f"{files[number % len(files)]}\n" for number in range(count)))
    salf = Path(sys.executable).parent / "salf"
    run = subprocess.Popen(
        [salf, "score", manifest, "--out", folder / f"rows-{count}", "--url", url, "--shard-size", "500", "--json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak = 0
    while run.poll() is None:
        lines = Path(f"/proc/{run.pid}/status").read_text().splitlines()
        peak = max([peak, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))])
        time.sleep(0.02)
    if run.returncode != 0 or peak == 0:
        raise CannotMeasureError(f"`salf score` ended with status {run.returncode}")
    return peak
