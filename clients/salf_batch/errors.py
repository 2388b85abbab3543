"""Errors of batch scoring: one kind of failure is one class.

BatchError
├── InvalidSourceError       the source is nothing that can be scored
│   └── SourceNotThereError  the source does not exist, or holds no pictures; they may still come
├── UnreadableInputError     one input cannot be read, and never will: becomes a row with an error
│   └── InputNotThereError   there is no such file; another run may find it
├── StoreUnavailableError    a store does not answer, or not to us; run again when it does
├── MissingExtraError        a package is not installed that only this source or target needs
├── TargetMismatchError      the target holds rows of another model, source or settings
├── TargetInUseError         another run writes to the target
├── TargetWriteError         the target cannot be written: disk full, no permission
├── InvalidTargetError       the target is no scored store
├── TemporaryFilesError      this machine's folder for temporary files is full, or cannot be used
├── MetricsUnavailableError  the metrics file cannot be written, or their port is taken
├── ModelChangedError        the server began to answer with another model, or does not serve the pinned version
├── EngineError              the Ray cluster cannot be reached, or broke down
├── ShardsFailedError        a run on Ray left shards out, as many as may fail; run again
└── ServerGoneError          the server did not answer for longer than the run's patience

Each message names the thing, what was expected and what to do. What is done when one is raised stays done.
"""


class BatchError(Exception):
    """Something kept a store from being scored.

    Attributes:
        is_lasting: whether the same call fails again until somebody changes it, the target, the server or this machine.
    """

    is_lasting = False


class InvalidSourceError(BatchError):
    """The source is nothing that can be scored."""

    is_lasting = True


class SourceNotThereError(InvalidSourceError):
    """The source does not exist, or holds no pictures; they may still come."""

    is_lasting = False


class UnreadableInputError(BatchError):
    """One input cannot be read, and trying again would not help."""


class InputNotThereError(UnreadableInputError):
    """There is no such file, or no such address."""


class StoreUnavailableError(BatchError):
    """A store does not answer, or refuses us."""


class MissingExtraError(BatchError):
    """A package is missing; the message says which extra brings it."""

    is_lasting = True


class TargetMismatchError(BatchError):
    """The target holds rows of another model, another source or other settings."""

    is_lasting = True


class TargetInUseError(BatchError):
    """Another run writes to the target."""


class TargetWriteError(BatchError):
    """The target cannot be written."""


class InvalidTargetError(BatchError):
    """The target is no scored store."""

    is_lasting = True


class TemporaryFilesError(BatchError):
    """This machine's folder for temporary files cannot keep the names of the inputs."""


class MetricsUnavailableError(BatchError):
    """The run's metrics cannot be shown where they shall be."""


class ModelChangedError(BatchError):
    """The server answers with another model than the run began with."""

    is_lasting = True


class ServerGoneError(BatchError):
    """The server did not answer for longer than the run's patience."""


class EngineError(BatchError):
    """The Ray cluster cannot be reached, or broke down."""


class ShardsFailedError(BatchError):
    """Some shards failed, no more than were allowed to; all others are done."""
