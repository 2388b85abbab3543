"""Errors of the client: one kind of failure is one class.

ClientError
├── InvalidAddressError           the url is no host:port
├── InvalidConnectionError        certificates, token or other settings of the connection cannot be used
├── ServerUnavailableError        nothing answers there: server down, wrong address, connection lost
├── ServerNotReadyError           the server is up, but it or the model is not ready (loading, failed to load)
├── ServerOverloadedError         the server or its front has more requests than it takes
│   └── QueueTimeoutError         the request waited in the server's queue for longer than the server allows
├── DeadlineExceededError         no answer within timeout_s
├── UnauthenticatedError          no token, a wrong one, or one that may not do this
├── MessageTooLargeError          a request or an answer is larger than allowed
├── ServerFailedError             the server answered with an error of its own
├── SharedMemoryUnavailableError  the server does not take pictures through shared memory
├── ModelNotFoundError            no such model, or no model that salf exported
│   ├── VersionNotServedError     the model is served, but not in the version that the client is pinned to
│   └── CompanionNotFoundError    the model is served, but not the graph beside it that answers this question
├── ModelNotChosenError           several models are served and none was named
├── InvalidRequestError           the server refused the request's tensors
├── UnknownClassError             `target` is no class of the model
├── UnknownConceptError           a concept is none of the model's
├── TopOutOfRangeError            `top` is not in 1..n
├── InvalidPictureError           the picture cannot be read or prepared
├── InvalidRegionError            a point, box or mask that marks nothing the model saw
├── InvalidEditError              edits that one what-if question cannot hold
├── ContractMismatchError         the answer does not fit the contract or the server's metadata
├── AbsentConceptError            a heatmap was asked for a concept that is not in the picture or not in the answer
├── NotComparableError            two explanations that have no common ground
├── StoredExplanationError        JSON or Arrow that holds no explanation
├── KnownAnswerError              a probe has no known answer to compare with
│   └── VersionNotKnownError      the repository keeps answers of the model, but none of the version that is served
├── MetricsUnavailableError       no metrics at an address, or none of a salf server
└── MissingExtraError             a package is not installed that only this call needs
    └── PlotUnavailableError      matplotlib is not installed

Each message names the thing, what was expected and what to do.
"""


class ClientError(Exception):
    """Something kept the client from giving an explanation."""


class InvalidAddressError(ClientError):
    """The url is no `host:port`."""


class InvalidConnectionError(ClientError):
    """Certificates, token or other settings of the connection cannot be used."""


class ServerUnavailableError(ClientError):
    """Nothing answers at the address."""


class ServerNotReadyError(ClientError):
    """The server is up, but it or the model is not ready to answer."""


class ServerOverloadedError(ClientError):
    """The server, or the front before it, has more requests than it takes."""


class QueueTimeoutError(ServerOverloadedError):
    """The request waited in the server's queue for longer than the server allows."""


class DeadlineExceededError(ClientError):
    """No answer came within the time allowed."""


class UnauthenticatedError(ClientError):
    """The server or its front wants a token, another one, or allows this one less."""


class MessageTooLargeError(ClientError):
    """A request or an answer is larger than the connection or the front allows."""


class ServerFailedError(ClientError):
    """The server answered with an error that the request did not cause."""


class SharedMemoryUnavailableError(ClientError):
    """The server does not take pictures through shared memory: another machine, or it keeps that closed."""


class ModelNotFoundError(ClientError):
    """The server has no such model, or none that salf exported."""


class VersionNotServedError(ModelNotFoundError):
    """The model is served, but not in the version that the client is pinned to."""


class CompanionNotFoundError(ModelNotFoundError):
    """The model is served, but the graph beside it that answers this kind of question is not."""


class ModelNotChosenError(ClientError):
    """The server has several models and the client was not told which one to ask."""


class InvalidRequestError(ClientError):
    """The server refused the request's tensors: their names, shapes or types."""


class UnknownClassError(ClientError):
    """The class that should be explained is none of the model's."""


class UnknownConceptError(ClientError):
    """A concept was named that is none of the model's."""


class TopOutOfRangeError(ClientError):
    """More or fewer concepts were asked for than the model's answers hold."""


class InvalidPictureError(ClientError):
    """The picture cannot be read or prepared."""


class InvalidRegionError(ClientError):
    """A point, box or mask that does not lie on the part of the picture that the model saw."""


class InvalidEditError(ClientError):
    """Edits that one what-if question cannot hold: too many, or a strength that is no number."""


class ContractMismatchError(ClientError):
    """An answer or a metadata document does not fit the contract."""


class AbsentConceptError(ClientError):
    """A place was asked for a concept that has none: absent from the picture, or not among those shown."""


class NotComparableError(ClientError):
    """Two explanations that have no common ground: neither the same classes nor the same picture."""


class StoredExplanationError(ClientError):
    """A JSON document or an Arrow table that holds no explanation, or one that is damaged."""


class KnownAnswerError(ClientError):
    """A file that should hold a probe's known answer is missing, or holds none."""


class VersionNotKnownError(KnownAnswerError):
    """A model repository keeps known answers of the model, but none of the version that the server serves."""


class MetricsUnavailableError(ClientError):
    """Nothing gives metrics at an address, or what it gives are none of a salf server."""


class MissingExtraError(ClientError):
    """A package is missing that only this call needs; the message says which extra brings it."""


class PlotUnavailableError(MissingExtraError):
    """Plots need matplotlib, which the base install leaves out."""
