"""The public names, and that each error is drawn in the tree."""

import inspect
import subprocess
import sys

import salf_client
from salf_client import errors


def test_the_export_list_is_sorted_complete_and_documented():
    names = salf_client.__all__
    assert sorted(names, key=lambda name: (not name.isupper(), name)) == names
    for name in names:
        value = getattr(salf_client, name)
        if callable(value):
            assert value.__doc__, name


def test_every_error_is_public_and_drawn_in_the_tree():
    classes = [value for value in vars(errors).values() if inspect.isclass(value)]
    for error in classes:
        assert issubclass(error, salf_client.ClientError)
        assert error.__name__ in (errors.__doc__ or "")
        assert error.__name__ in salf_client.__all__


def test_importing_the_client_brings_neither_torch_nor_matplotlib_nor_grpc():
    heavy = (
        "{'torch', 'matplotlib', 'onnx', 'onnxruntime', 'tritonclient', 'grpc', 'pyarrow', 'fsspec', 'opentelemetry'}"
    )
    code = f"import sys, salf_client, salf_contract; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
