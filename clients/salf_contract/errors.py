"""Errors of the contract.

ContractError
├── PictureError    bytes, a file or an array that is no usable picture
│   └── PictureRefusedError   outside the limits of the encoded endpoint (in limits.py, with its codes)
├── RegionError     a point, box or mask that marks nothing a model saw
├── MetadataError   a metadata document that is broken or of another format version
├── ManifestError   a manifest that is broken, changed or of another format version
├── ConfigError     a config.pbtxt that is no protobuf text format
└── TuningError     a record of a tuning that is broken, changed or of another format version
"""


class ContractError(ValueError):
    """Something does not fit the contract between rooms."""


class PictureError(ContractError):
    """A picture could not be decoded or has a shape, type or size that cannot be prepared."""


class RegionError(ContractError):
    """A point, box or mask that cannot be used, or that marks nothing that the model saw."""


class MetadataError(ContractError):
    """A metadata document is not valid JSON, misses fields, or has an unknown format version."""


class ManifestError(ContractError):
    """A manifest is not valid JSON, misses fields, has an unknown format version, or was changed."""


class ConfigError(ContractError):
    """A config.pbtxt cannot be read."""


class TuningError(ContractError):
    """The record of a tuning is not valid JSON, misses fields, has an unknown format version, or was changed."""
