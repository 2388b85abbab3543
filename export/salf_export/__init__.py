"""Export room: checkpoint -> verified ONNX graphs in a Triton model repository. Starts no servers.

    export_checkpoint(Path("checkpoint"), Path("model_repository"), name="scenes")

Exporting needs the `export` extra (torch, onnx, onnxruntime), and is loaded when it is first asked for. Listing,
checking, publishing and rolling back need nothing but the base.
"""

from typing import TYPE_CHECKING, Any

from salf_export.errors import (
    ExportError,
    FidelityError,
    GraphError,
    MissingExtraError,
    OptionError,
    RepositoryError,
    SourceError,
)
from salf_export.integrity import Finding, IntegrityReport, accept_configs, verify_repository
from salf_export.listing import ListedVersion, list_repository
from salf_export.publishing import RolledBack, drop_old_versions, roll_back
from salf_export.transfer import publish_version
from salf_export.triton_config import ServingSettings

if TYPE_CHECKING:
    from salf_export.exporting import ExportReport, export_checkpoint

_NEEDS_EXTRA = ("ExportReport", "export_checkpoint")

__all__ = [
    "ExportError",
    "ExportReport",
    "FidelityError",
    "Finding",
    "GraphError",
    "IntegrityReport",
    "ListedVersion",
    "MissingExtraError",
    "OptionError",
    "RepositoryError",
    "RolledBack",
    "ServingSettings",
    "SourceError",
    "accept_configs",
    "drop_old_versions",
    "export_checkpoint",
    "list_repository",
    "publish_version",
    "roll_back",
    "verify_repository",
]


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_EXTRA:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from salf_export import exporting
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"exporting needs the package {error.name!r}, which is not installed; run: pip install 'salf[export]'"
        ) from error
    return getattr(exporting, name)
