"""Explained predictions from a Triton server.

```python
from salf_client import Client

with Client("localhost:8001") as client:
    explanation = client.explain("boat.jpg")
    print(explanation)
```
"""

from salf_client.client import DEFAULT_TOP, Client
from salf_client.errors import (
    AbsentConceptError,
    ClientError,
    ContractMismatchError,
    DeadlineExceededError,
    InvalidAddressError,
    InvalidPictureError,
    InvalidRequestError,
    ModelNotChosenError,
    ModelNotFoundError,
    PlotUnavailableError,
    ServerFailedError,
    ServerNotReadyError,
    ServerUnavailableError,
    TopOutOfRangeError,
    UnknownClassError,
)
from salf_client.explanation import ConceptEvidence, Explanation
from salf_client.models import ModelInfo
from salf_client.transport import IndexEntry, ModelConfig, ServerMetadata, Transport

__all__ = [
    "DEFAULT_TOP",
    "AbsentConceptError",
    "Client",
    "ClientError",
    "ConceptEvidence",
    "ContractMismatchError",
    "DeadlineExceededError",
    "Explanation",
    "IndexEntry",
    "InvalidAddressError",
    "InvalidPictureError",
    "InvalidRequestError",
    "ModelConfig",
    "ModelInfo",
    "ModelNotChosenError",
    "ModelNotFoundError",
    "PlotUnavailableError",
    "ServerFailedError",
    "ServerMetadata",
    "ServerNotReadyError",
    "ServerUnavailableError",
    "TopOutOfRangeError",
    "Transport",
    "UnknownClassError",
]
