"""Errors of the export room.

ExportError
├── MissingExtraError     a package that the export or its runtime needs, or a GPU, is not here
├── OptionError           a name, version, top, batch size or picture that cannot be used
├── SourceError           the checkpoint is missing, broken, or holds numbers that cannot be folded
├── GraphError            the network could not be turned into a standard ONNX graph
├── FidelityError         the graph's answers differ from the model's; nothing was published
└── RepositoryError       the model repository cannot take the model; it is as it was before
"""


class ExportError(Exception):
    """An export cannot go on; the message says what was expected and what to do."""


class MissingExtraError(ExportError, ImportError):
    """A package that the export or its runtime needs is not installed, or its GPU is missing."""


class OptionError(ExportError, ValueError):
    """An option has a value that cannot be used."""


class SourceError(ExportError):
    """The checkpoint cannot be read, or its numbers cannot be folded."""


class GraphError(ExportError):
    """The network could not be turned into a standard ONNX graph."""


class FidelityError(ExportError):
    """An exported graph answers differently from the PyTorch model; the message may hold a table."""

    #: Its lines are printed as they are.
    line_by_line = True


class RepositoryError(ExportError):
    """The model repository cannot take the model."""
