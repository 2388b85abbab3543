"""Export room: checkpoint -> verified ONNX graphs in a Triton model repository. Starts no servers.

    export_checkpoint(Path("checkpoint"), Path("model_repository"), name="scenes")

Needs the `export` extra (torch, onnx, onnxruntime).
"""

from salf_export.errors import (
    ExportError,
    FidelityError,
    GraphError,
    MissingExtraError,
    OptionError,
    RepositoryError,
    SourceError,
)

try:
    from salf_export.exporting import ExportReport, export_checkpoint
    from salf_export.gate import Thresholds, read_thresholds
    from salf_export.kinds import Kind, parse_kind
    from salf_export.triton_config import ServingSettings
except ModuleNotFoundError as error:
    raise MissingExtraError(
        f"exporting needs the package {error.name!r}, which is not installed; run: pip install 'salf[export]'"
    ) from error

__all__ = [
    "ExportError",
    "ExportReport",
    "FidelityError",
    "GraphError",
    "Kind",
    "MissingExtraError",
    "OptionError",
    "RepositoryError",
    "ServingSettings",
    "SourceError",
    "Thresholds",
    "export_checkpoint",
    "parse_kind",
    "read_thresholds",
]
