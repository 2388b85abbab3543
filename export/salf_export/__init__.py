"""Export room: checkpoint -> verified ONNX graphs in a Triton model repository. Starts no servers.

    export_checkpoint(Path("checkpoint"), Path("model_repository"), name="scenes")

Exporting needs the `export` extra (torch, onnx, onnxruntime), and is loaded when it is first asked for. Listing,
checking, publishing and rolling back need nothing but the base.
"""

import importlib
from typing import TYPE_CHECKING, Any

from salf_contract import Thresholds
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
    from salf_export.gate import read_thresholds
    from salf_export.kinds import Kind, parse_kind

#: Name -> its module; each needs the `export` extra.
_NEEDS_EXTRA = {
    "ExportReport": "exporting",
    "Kind": "kinds",
    "export_checkpoint": "exporting",
    "parse_kind": "kinds",
    "read_thresholds": "gate",
}

__all__ = [
    "ExportError",
    "ExportReport",
    "FidelityError",
    "Finding",
    "GraphError",
    "IntegrityReport",
    "Kind",
    "ListedVersion",
    "MissingExtraError",
    "OptionError",
    "RepositoryError",
    "RolledBack",
    "ServingSettings",
    "SourceError",
    "Thresholds",
    "accept_configs",
    "drop_old_versions",
    "export_checkpoint",
    "list_repository",
    "parse_kind",
    "publish_version",
    "read_thresholds",
    "roll_back",
    "verify_repository",
]


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_EXTRA:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"salf_export.{_NEEDS_EXTRA[name]}")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"exporting needs the package {error.name!r}, which is not installed; run: pip install 'salf[export]'"
        ) from error
    return getattr(module, name)
