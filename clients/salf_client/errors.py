"""Errors of the client: one kind of failure is one class.

ClientError
├── InvalidAddressError       the url is no host:port
├── ServerUnavailableError    nothing answers there: server down, wrong address, connection lost
├── ServerNotReadyError       the server is up, but it or the model is not ready (loading, failed to load)
├── DeadlineExceededError     no answer within timeout_s
├── ServerFailedError         the server answered with an error of its own
├── ModelNotFoundError        no such model, or no model that salf exported
├── ModelNotChosenError       several models are served and none was named
├── InvalidRequestError       the server refused the request's tensors
├── UnknownClassError         `target` is no class of the model
├── TopOutOfRangeError        `top` is not in 1..n
├── InvalidPictureError       the picture cannot be read or prepared
├── ContractMismatchError     the answer does not fit the contract or the server's metadata
├── AbsentConceptError        a heatmap was asked for a concept that is not in the picture or not in the answer
└── PlotUnavailableError      matplotlib is not installed

Each message names the thing, what was expected and what to do.
"""


class ClientError(Exception):
    """Something kept the client from giving an explanation."""


class InvalidAddressError(ClientError):
    """The url is no `host:port`."""


class ServerUnavailableError(ClientError):
    """Nothing answers at the address."""


class ServerNotReadyError(ClientError):
    """The server is up, but it or the model is not ready to answer."""


class DeadlineExceededError(ClientError):
    """No answer came within the time allowed."""


class ServerFailedError(ClientError):
    """The server answered with an error that the request did not cause."""


class ModelNotFoundError(ClientError):
    """The server has no such model, or none that salf exported."""


class ModelNotChosenError(ClientError):
    """The server has several models and the client was not told which one to ask."""


class InvalidRequestError(ClientError):
    """The server refused the request's tensors: their names, shapes or types."""


class UnknownClassError(ClientError):
    """The class that should be explained is none of the model's."""


class TopOutOfRangeError(ClientError):
    """More or fewer concepts were asked for than the model's answers hold."""


class InvalidPictureError(ClientError):
    """The picture cannot be read or prepared."""


class ContractMismatchError(ClientError):
    """An answer or a metadata document does not fit the contract."""


class AbsentConceptError(ClientError):
    """A place was asked for a concept that has none: absent from the picture, or not among those shown."""


class PlotUnavailableError(ClientError):
    """Plots need matplotlib, which the base install leaves out."""
