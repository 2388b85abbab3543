"""A Triton that is there already, as in NVIDIA's image: its own binary and native backends, with ours beside them.

$SALF_TRITON names its folder, /opt/tritonserver in the image. `salf serve --install` then brings only what our own
Python backends need. Never run by us: no such Triton can be had where salf is tested.
"""

import os
from pathlib import Path

from salf_serving.backend_files import backend_files, copy_backends

NATIVE_VARIABLE = "SALF_TRITON"
#: Our backends that no native one replaces.
_OURS = ("salf_encoded",)
#: Packages of the runtime that this Triton brings itself, or that only its replacements of native backends need.
BROUGHT = frozenset({"nvidia-pytriton", "onnxruntime", "openvino", "flatbuffers", "protobuf", "packaging"})


def native_triton() -> Path | None:
    """The folder of the Triton that is there already; None: salf brings one."""
    chosen = os.environ.get(NATIVE_VARIABLE)
    return Path(chosen).absolute() if chosen else None


def native_binary(triton: Path) -> Path:
    """The server's binary."""
    return triton / "bin" / "tritonserver"


def native_stub(triton: Path) -> Path:
    """What runs Python backends."""
    return triton / "backends" / "python" / "triton_python_backend_stub"


def put_backends(triton: Path) -> None:
    """Copy our backends beside the native ones.

    Raises:
        OSError: the folder cannot be written; an image does this as root while it is built.
    """
    copy_backends(triton / "backends", _files())


def has_backends(triton: Path) -> bool:
    """Whether this salf's own backends are there, unchanged."""
    present = ((triton / "backends" / name, source) for name, source in _files().items())
    return all(path.is_file() and path.read_bytes() == source.read_bytes() for path, source in present)


def _files() -> dict[Path, Path]:
    return {name: source for name, source in backend_files().items() if name.parts[0] in _OURS}
