"""Scoring whole stores of pictures: one row for each, in a Parquet dataset; killed runs go on.

```python
from salf_batch import Settings, score

summary = score("s3://bucket/photos", "scored/", Settings(url="localhost:8001"))
```
"""

from salf_batch.errors import (
    BatchError,
    EngineError,
    InputNotThereError,
    InvalidSourceError,
    InvalidTargetError,
    MetricsUnavailableError,
    MissingExtraError,
    ModelChangedError,
    ServerGoneError,
    ShardsFailedError,
    SourceNotThereError,
    StoreUnavailableError,
    TargetInUseError,
    TargetMismatchError,
    TargetWriteError,
    TemporaryFilesError,
    UnreadableInputError,
)
from salf_batch.progress import Progress, Summary
from salf_batch.reporting import write_report
from salf_batch.scoring import score
from salf_batch.settings import Settings

__all__ = [
    "BatchError",
    "EngineError",
    "InputNotThereError",
    "InvalidSourceError",
    "InvalidTargetError",
    "MetricsUnavailableError",
    "MissingExtraError",
    "ModelChangedError",
    "Progress",
    "ServerGoneError",
    "Settings",
    "ShardsFailedError",
    "SourceNotThereError",
    "StoreUnavailableError",
    "Summary",
    "TargetInUseError",
    "TargetMismatchError",
    "TargetWriteError",
    "TemporaryFilesError",
    "UnreadableInputError",
    "score",
    "write_report",
]
