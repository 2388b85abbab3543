"""Explained predictions from a Triton server.

```python
from salf_client import Client

with Client("localhost:8001") as client:
    explanation = client.explain("boat.jpg")
    print(explanation)
```
"""

from salf_client.choosing import DEFAULT_TOP
from salf_client.client import AsyncClient, Client
from salf_client.comparing import Comparison
from salf_client.connection import Connection, Tls
from salf_client.edits import Edit, Removal
from salf_client.errors import (
    AbsentConceptError,
    ClientError,
    CompanionNotFoundError,
    ContractMismatchError,
    DeadlineExceededError,
    InvalidAddressError,
    InvalidConnectionError,
    InvalidEditError,
    InvalidPictureError,
    InvalidRegionError,
    InvalidRequestError,
    KnownAnswerError,
    MessageTooLargeError,
    MetricsUnavailableError,
    MissingExtraError,
    ModelNotChosenError,
    ModelNotFoundError,
    NotComparableError,
    PlotUnavailableError,
    QueueTimeoutError,
    ServerFailedError,
    ServerNotReadyError,
    ServerOverloadedError,
    ServerUnavailableError,
    SharedMemoryUnavailableError,
    StoredExplanationError,
    TopOutOfRangeError,
    UnauthenticatedError,
    UnknownClassError,
    UnknownConceptError,
    VersionNotKnownError,
    VersionNotServedError,
)
from salf_client.explanation import ConceptEvidence, Explanation
from salf_client.findings import (
    ConceptChange,
    ConceptMaps,
    ConceptScore,
    EndpointHealth,
    Health,
    RegionFinding,
    Rule,
    WhatIf,
)
from salf_client.models import ModelInfo
from salf_client.observing import Call, Observer
from salf_client.places import Place
from salf_client.probing import ProbeResult, probe
from salf_client.retrying import Retry
from salf_client.storing import from_arrow, to_arrow
from salf_client.streaming import Outcome
from salf_client.transport import AsyncTransport, IndexEntry, ModelConfig, Pin, ServerMetadata, Transport

__all__ = [
    "DEFAULT_TOP",
    "AbsentConceptError",
    "AsyncClient",
    "AsyncTransport",
    "Call",
    "Client",
    "ClientError",
    "CompanionNotFoundError",
    "Comparison",
    "ConceptChange",
    "ConceptEvidence",
    "ConceptMaps",
    "ConceptScore",
    "Connection",
    "ContractMismatchError",
    "DeadlineExceededError",
    "Edit",
    "EndpointHealth",
    "Explanation",
    "Health",
    "IndexEntry",
    "InvalidAddressError",
    "InvalidConnectionError",
    "InvalidEditError",
    "InvalidPictureError",
    "InvalidRegionError",
    "InvalidRequestError",
    "KnownAnswerError",
    "MessageTooLargeError",
    "MetricsUnavailableError",
    "MissingExtraError",
    "ModelConfig",
    "ModelInfo",
    "ModelNotChosenError",
    "ModelNotFoundError",
    "NotComparableError",
    "Observer",
    "Outcome",
    "Pin",
    "Place",
    "PlotUnavailableError",
    "ProbeResult",
    "QueueTimeoutError",
    "RegionFinding",
    "Removal",
    "Retry",
    "Rule",
    "ServerFailedError",
    "ServerMetadata",
    "ServerNotReadyError",
    "ServerOverloadedError",
    "ServerUnavailableError",
    "SharedMemoryUnavailableError",
    "StoredExplanationError",
    "Tls",
    "TopOutOfRangeError",
    "Transport",
    "UnauthenticatedError",
    "UnknownClassError",
    "UnknownConceptError",
    "VersionNotKnownError",
    "VersionNotServedError",
    "WhatIf",
    "from_arrow",
    "probe",
    "to_arrow",
]
