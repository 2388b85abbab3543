"""The backends that run graphs, opened outside Triton with a stand-in for what its stub gives them."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import salf_serving

ROOM = Path(salf_serving.__file__).parent
_SHARED = ("graph_backend", "graph_config")


class TritonModelException(Exception):  # noqa: N818 - Triton's name
    pass


class Tensor:
    def __init__(self, name, array):
        self.name, self.array = name, array

    def as_numpy(self):
        return self.array


class Response:
    def __init__(self, output_tensors, error=None):
        self.outputs = {tensor.name: tensor.array for tensor in output_tensors}
        self.error = error


def _stub() -> ModuleType:
    fake = ModuleType("triton_python_backend_utils")
    fake.warnings = []
    fake.Tensor, fake.InferenceResponse, fake.TritonError = Tensor, Response, str
    fake.TritonModelException = TritonModelException
    fake.Logger = SimpleNamespace(log_warn=fake.warnings.append)
    fake.get_input_tensor_by_name = lambda request, name: request.inputs.get(name)
    return fake


@contextmanager
def opened(backend: str) -> Iterator[ModuleType]:
    """Import backends/<backend>/model.py; what it warned of is in its `warnings`."""
    fake = _stub()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, fake.__name__, fake)
        for name in _SHARED:
            patch.delitem(sys.modules, name, raising=False)
        patch.syspath_prepend(str(ROOM))
        spec = importlib.util.spec_from_file_location(f"salf_{backend}_backend", ROOM / f"backends/{backend}/model.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        # The real one has numpy 1.26; here only the logic is looked at.
        patch.setattr(sys.modules["graph_backend"].np, "__version__", "1.26.4")
        module.warnings = fake.warnings
        yield module
        for name in _SHARED:
            sys.modules.pop(name, None)


def parameters(**values):
    return {"parameters": {key: {"string_value": value} for key, value in values.items()}}


def load_tiny(backend: ModuleType, repository: Path, change=lambda _config: None):
    """The tiny model of a repository, initialised; `change` edits its configuration first."""

    def port(name, data_type, *dims):
        return {"name": name, "data_type": data_type, "dims": [str(dim) for dim in dims]}

    config = {
        "max_batch_size": 8,
        "input": [port("image", "TYPE_UINT8", 6, 4, 3), port("target", "TYPE_INT32", 1)],
        "output": [port("logits", "TYPE_FP32", -1), port("bias", "TYPE_FP32", 1)],
    }
    change(config)
    model = backend.TritonPythonModel()
    model.initialize({
        "model_config": json.dumps(config), "model_repository": str(repository / "tiny"), "model_version": "1",
        "model_name": "tiny",
    })  # fmt: skip
    return model


def request(images, targets, outputs=("logits", "bias")):
    """A request to the tiny model; an input that is None is left out."""
    given = {"image": images, "target": targets}
    inputs = {name: Tensor(name, array) for name, array in given.items() if array is not None}
    return SimpleNamespace(inputs=inputs, requested_output_names=lambda: list(outputs))
