"""Errors of the serving room; each message is one sentence with the thing, what was expected and the remedy.

ServingError
├── PlatformError          this machine or this Python cannot run Triton without a container
├── RuntimeMissingError    the server's own environment is missing, incomplete or of other versions
├── InstallError           the environment could not be built
├── RepositoryError        the path is no model repository, or a model in it has no version
├── PortTakenError         something else listens on the port
├── FrontError             nginx is missing, refuses its configuration, or its settings or tokens are wrong
│   └── FrontHangsError    it is there, and says nothing
├── RefusedVersionError    a version is corrupt or unfaithful; the one before stays
├── TuningFailedError      no settings keep the bound, or the bound makes no sense
├── ServerDiedError        Triton stopped while it served, again and again
└── StartError             Triton was started and does not serve
    ├── ModelLoadError     a model was refused; Triton's reason is in the message
    ├── ProbeError         a model loaded and did not answer its probe right
    │   ├── WrongAnswerError   it gave another answer than the known one
    │   └── ProbeTimeoutError  it gave none in time
    └── StartupTimeoutError
"""


class ServingError(RuntimeError):
    """Something keeps the models from being served."""


class PlatformError(ServingError):
    """The machine or the Python interpreter does not meet a condition of Triton's."""


class RuntimeMissingError(ServingError):
    """The server's own environment is not there, or not as this version of salf needs it."""


class InstallError(ServingError):
    """The server's own environment could not be built."""


class RepositoryError(ServingError):
    """A model repository does not exist, is empty, or holds a model without a version."""


class PortTakenError(ServingError):
    """A port that Triton should listen on is in use."""


class FrontError(ServingError):
    """The front cannot run as it is set up."""


class FrontHangsError(FrontError):
    """nginx did not say its first words in time."""


class RefusedVersionError(ServingError):
    """A version of a model must not be served.

    Attributes:
        reason: one word for metrics: "manifest", "metadata", "fidelity", "load", "probe", "timeout" or "unreadable".
        lasting: whether its content is to blame, so that the same content need not be tried again.
    """

    def __init__(self, message: str, *, reason: str, lasting: bool = True) -> None:
        super().__init__(message)
        self.reason, self.lasting = reason, lasting


class StartError(ServingError):
    """Triton was started, but stopped again or does not serve."""


class ModelLoadError(StartError):
    """Triton refused a model."""


class ProbeError(StartError):
    """A model answered its own probe wrongly, or not at all."""


class WrongAnswerError(ProbeError):
    """A model answered its own probe without an error, and wrongly: nobody who asks it would notice."""


class ProbeTimeoutError(ProbeError):
    """A model did not answer its own probe in time; it may only be busy."""


class StartupTimeoutError(StartError):
    """Triton was not ready in time."""


class ServerDiedError(ServingError):
    """Triton, or the front, stopped although nobody asked it to, and starting it again did not help."""


class TuningFailedError(ServingError):
    """No settings answer within the bound, or what to tune for makes no sense."""
