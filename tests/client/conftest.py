"""Fixtures of the clients' tests.

The server in memory computes answers from a random linear head, float64 inside and float32 on the wire.
"""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from salf_client import (
    Client,
    IndexEntry,
    InvalidRequestError,
    ModelConfig,
    ModelNotFoundError,
    ServerMetadata,
)
from salf_contract import EXPLAIN_OUTPUTS, NO_CONCEPT, Metadata, Preparation, metadata_parameter
from salf_serving import Runtime, free_port

ROOT = Path(__file__).resolve().parents[2]


def make_metadata(*, version=1, classes=4, concepts=9, top=6, size=(32, 48), map_size=(3, 5), name="scenes"):
    return Metadata(
        name=name,
        version=version,
        classes=tuple(f"class {k}" for k in range(classes)),
        concepts=tuple(f"concept {m}" for m in range(concepts)),
        preparation=Preparation(height=size[0], width=size[1]),
        pooling="average",
        map_size=map_size,
        top=top,
    )


class LinearModel:
    """Features are mean colours of grid cells; a random bottleneck and head follow."""

    def __init__(self, metadata, seed=0, density=1.0):
        rng = np.random.default_rng(seed)
        K, M = len(metadata.classes), len(metadata.concepts)
        self.metadata = metadata
        self.bottleneck = rng.normal(size=(M, 3))
        self.mean, self.std = rng.normal(size=M), rng.uniform(0.2, 2, size=M)
        self.weights = rng.normal(size=(K, M)) * (rng.random((K, M)) < density)
        self.bias = rng.normal(size=K)

    def answer(self, image, target):
        h, w = self.metadata.map_size
        H, W, _ = image.shape
        cells = [[image[i * H // h : (i + 1) * H // h, j * W // w : (j + 1) * W // w].mean((0, 1)) for j in range(w)]
                 for i in range(h)]  # fmt: skip
        features = np.moveaxis(np.array(cells) / 255 - 0.5, -1, 0)
        maps = (np.einsum("mc,chw->mhw", self.bottleneck, features) - self.mean[:, None, None]) / self.std[
            :, None, None
        ]
        scores = maps.mean((1, 2))
        logits = self.weights @ scores + self.bias
        k = int(logits.argmax()) if target == -1 else int(target)
        contributions = self.weights[k] * scores
        n = self.metadata.top
        order = np.argsort(-np.abs(contributions), kind="stable")[:n]
        order = order[contributions[order] != 0]
        rest = np.setdiff1d(np.arange(len(scores)), order)
        total = np.abs(contributions).sum()

        def slots(values, fill=0.0):
            padded = np.full((n, *values.shape[1:]), fill, dtype=np.float64)
            padded[: len(values)] = values
            return padded

        return {
            "logits": logits,
            "target_class": np.array([k]),
            "bias": self.bias[[k]],
            "top_concepts": slots(order.astype(np.float64), NO_CONCEPT),
            "top_contributions": slots(contributions[order]),
            "top_scores": slots(scores[order]),
            "rest_contribution": contributions[rest].sum(keepdims=True),
            "coverage": np.array([np.abs(contributions[order]).sum() / total if total else 1.0]),
            "top_maps": slots(maps[order]),
            "contract_id": self.metadata.contract_id_words(),
        }


_TYPES = {"FP32": np.float32, "INT32": np.int32}


@dataclass
class FakeServer:
    """Implements salf_client.Transport; counts every call."""

    served: dict = field(default_factory=dict)
    documents: dict = field(default_factory=dict)
    other_models: dict = field(default_factory=dict)
    ready: bool = True
    address: str = "memory:0"
    calls: list = field(default_factory=list)
    requests: list = field(default_factory=list)
    spoil: object = None
    before_infer: object = None

    def serve(self, model, *, describe=True):
        name = model.metadata.name
        self.served[name] = model
        if describe:
            self.documents.setdefault(name, {})[model.metadata.version] = model.metadata
        return self

    def infer(self, model, inputs, outputs, *, timeout_s):
        self.calls.append("infer")
        self.requests.append((model, inputs, tuple(outputs)))
        if self.before_infer is not None:
            self.before_infer(self)
        if model not in self.served:
            raise ModelNotFoundError(f"unknown model {model}")
        linear = self.served[model]
        preparation = linear.metadata.preparation
        if inputs["image"].shape != (1, preparation.height, preparation.width, 3):
            raise InvalidRequestError(f"unexpected shape {inputs['image'].shape}")
        assert inputs["image"].dtype == np.uint8
        assert inputs["target"].shape == (1, 1)
        assert inputs["target"].dtype == np.int32
        answer = linear.answer(inputs["image"][0], inputs["target"][0, 0])
        types = {spec.name: _TYPES[spec.datatype] for spec in EXPLAIN_OUTPUTS}
        tensors = {name: np.asarray(answer[name], dtype=types[name])[None] for name in outputs}
        if self.spoil is not None:
            self.spoil(tensors)
        return tensors

    def model_config(self, model, *, timeout_s):
        self.calls.append("model_config")
        if model in self.other_models:
            return ModelConfig(model, "python", self.other_models[model], {})
        if model not in self.served:
            raise ModelNotFoundError(f"unknown model {model}")
        return ModelConfig(
            name=model,
            backend="memory",
            outputs=tuple(spec.name for spec in EXPLAIN_OUTPUTS),
            parameters={metadata_parameter(v): d.to_json() for v, d in self.documents.get(model, {}).items()},
        )

    def repository_index(self, *, timeout_s):
        self.calls.append("repository_index")
        return tuple(
            IndexEntry(name, model.metadata.version, self.ready, "" if self.ready else "loading")
            for name, model in self.served.items()
        ) + tuple(IndexEntry(name, 1, ready=True) for name in self.other_models)

    def server_metadata(self, *, timeout_s):
        return ServerMetadata("memory", "0")

    def is_ready(self, model, *, timeout_s):
        return self.ready and (model is None or model in self.served)

    def close(self):
        self.calls.append("close")


@pytest.fixture(scope="session")
def memory():
    return SimpleNamespace(make_metadata=make_metadata, LinearModel=LinearModel, FakeServer=FakeServer)


@pytest.fixture
def linear_model():
    def make(seed=0, density=1.0, **settings):
        return LinearModel(make_metadata(**settings), seed, density)

    return make


@pytest.fixture
def server(linear_model):
    return FakeServer().serve(linear_model())


@pytest.fixture
def empty_server():
    return FakeServer()


@pytest.fixture
def client(server):
    return Client(transport=server)


@pytest.fixture
def picture():
    rng = np.random.default_rng(5)
    return Image.fromarray(rng.integers(0, 256, (60, 100, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def whole_server(
    runtime: Runtime, tmp_path_factory: pytest.TempPathFactory, debian_program: Callable[[str, str], Path]
) -> Iterator[tuple[str, str]]:
    """`salf serve` with its front, as operators run it: addresses of the front and of the status port."""
    folder = tmp_path_factory.mktemp("served")
    port, status = free_port(), free_port()
    command = [Path(sys.executable).with_name("salf"), "serve", ROOT / "model_repository", "--front"]
    command += ["--port", str(port), "--status-port", str(status), "--threads", "1"]
    environment = {**os.environ, "XDG_STATE_HOME": str(folder), "SALF_NGINX": str(debian_program("nginx", "nginx"))}
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=environment)
    try:
        ends_at_s = time.monotonic() + 90
        while not _answers(f"http://127.0.0.1:{status}/readyz"):
            assert process.poll() is None, (folder / "serve.log").read_text()
            assert time.monotonic() < ends_at_s, "salf serve was not ready in time"
            time.sleep(0.1)
        yield f"127.0.0.1:{port}", f"127.0.0.1:{status}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False
