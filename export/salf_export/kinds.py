"""Which runtimes and precisions there are, and which of them this machine can compute."""

import importlib.util
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from salf_export.errors import MissingExtraError, OptionError
from salf_export.tensorrt_api import engine_provenance

Runtime = Literal["onnxruntime", "openvino", "tensorrt"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
RUNTIMES: tuple[str, ...] = get_args(Runtime)
PRECISIONS: tuple[str, ...] = get_args(Precision)

#: Any of these multiplies bytes and adds the products without saturating; older CPUs would compute something else.
_INT8_FEATURES = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
_BF16_FEATURES = frozenset({"avx512_bf16", "amx_bf16"})
_OPENVINO_BF16 = "--runtime openvino --precision bf16"


@dataclass(frozen=True)
class Kind:
    """What computes a model, and in what numbers. Only the backbone is ever reduced; the head stays in float32."""

    runtime: Runtime = "onnxruntime"
    precision: Precision = "fp32"

    def __str__(self) -> str:
        """`openvino int8`."""
        return f"{self.runtime} {self.precision}"

    @property
    def is_reduced(self) -> bool:
        """Whether answers differ from the checkpoint's by more than rounding."""
        return self.precision != "fp32"


FP32 = Kind()


def parse_kind(runtime: str, precision: str) -> Kind:
    """Name a kind.

    Raises:
        OptionError: an unknown runtime or precision.
    """
    if runtime not in RUNTIMES:
        raise OptionError(f"there is no runtime {runtime!r}; choose --runtime {' or '.join(RUNTIMES)}")
    if precision not in PRECISIONS:
        raise OptionError(f"there is no precision {precision!r}; choose --precision {' or '.join(PRECISIONS)}")
    return Kind(runtime, precision)  # type: ignore[arg-type] # looked up just above


def check_kind(kind: Kind, *, features: frozenset[str] | None = None) -> None:
    """Refuse what this machine cannot compute, or not faster than float32.

    Args:
        kind: to be exported.
        features: of the CPU, as Linux names them; None: this machine's.

    Raises:
        MissingExtraError: the runtime's package is not installed, or there is no GPU for it.
        OptionError: the runtime or the CPU does not compute this precision.
    """
    if kind.runtime == "openvino":
        _need("openvino", extra="openvino")
    features = cpu_features() if features is None else features
    if kind.runtime == "tensorrt":
        engine_provenance()
        return
    if kind.precision == "fp16":
        raise OptionError(
            f"{kind.runtime} gains nothing from fp16 on a CPU: it would convert to fp32 before every operation; "
            f"use {_OPENVINO_BF16}, --precision int8, or --runtime tensorrt on a GPU"
        )
    if kind.precision == "bf16":
        if kind.runtime == "onnxruntime":
            raise OptionError(
                "onnxruntime has no bf16 convolutions for CPUs: it would convert to fp32 before every operation; "
                f"use {_OPENVINO_BF16} or --precision int8"
            )
        _need_feature(kind, features, _BF16_FEATURES)
    if kind.precision == "int8":
        _need_feature(kind, features, _INT8_FEATURES)


def cpu_features() -> frozenset[str]:
    """What Linux says this CPU can do; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset())


def _need_feature(kind: Kind, features: frozenset[str], wanted: frozenset[str]) -> None:
    if not features & wanted:
        raise OptionError(
            f"{kind} needs a CPU with one of {', '.join(sorted(wanted))}, which this {platform.machine()} machine does "
            "not have, so its answers could not be checked here; use --precision fp32, or export on the machine that "
            "will serve"
        )


def _need(package: str, *, extra: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(
            f"--runtime {package} needs the package {package}, which is not installed; run: pip install 'salf[{extra}]'"
        )
