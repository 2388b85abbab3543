"""What every room agrees on: tensor names, the metadata document, and how a picture is prepared.

Needs numpy, Pillow and pydantic only, and does no I/O.
"""

from salf_contract.errors import ContractError, MetadataError, PictureError
from salf_contract.metadata import (
    METADATA_FILE,
    Fidelity,
    Metadata,
    contract_id_from_words,
    metadata_in_parameters,
    metadata_parameter,
    parse_metadata,
)
from salf_contract.picture import Preparation, Prepared, array_to_picture, decode_picture, prepare, to_rgb
from salf_contract.placement import place_map
from salf_contract.tensors import (
    ALL_MAPS_MODEL,
    ALL_MAPS_OUTPUTS,
    ALL_SCORES_MODEL,
    ALL_SCORES_OUTPUTS,
    CONTRACT_ID_WORDS,
    EXPLAIN_INPUTS,
    EXPLAIN_OUTPUTS,
    FEATURES_INPUT,
    FROM_FEATURES_INPUTS,
    FROM_FEATURES_MODEL,
    FROM_FEATURES_OUTPUTS,
    IMAGE_INPUT,
    NO_CONCEPT,
    PREDICTED_CLASS,
    TensorSpec,
    sum_tolerance,
)

__all__ = [
    "ALL_MAPS_MODEL",
    "ALL_MAPS_OUTPUTS",
    "ALL_SCORES_MODEL",
    "ALL_SCORES_OUTPUTS",
    "CONTRACT_ID_WORDS",
    "EXPLAIN_INPUTS",
    "EXPLAIN_OUTPUTS",
    "FEATURES_INPUT",
    "FROM_FEATURES_INPUTS",
    "FROM_FEATURES_MODEL",
    "FROM_FEATURES_OUTPUTS",
    "IMAGE_INPUT",
    "METADATA_FILE",
    "NO_CONCEPT",
    "PREDICTED_CLASS",
    "ContractError",
    "Fidelity",
    "Metadata",
    "MetadataError",
    "PictureError",
    "Preparation",
    "Prepared",
    "TensorSpec",
    "array_to_picture",
    "contract_id_from_words",
    "decode_picture",
    "metadata_in_parameters",
    "metadata_parameter",
    "parse_metadata",
    "place_map",
    "prepare",
    "sum_tolerance",
    "to_rgb",
]
