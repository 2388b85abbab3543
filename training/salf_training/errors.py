"""Errors of the training room.

TrainingError
├── SettingsError     a settings file or value that cannot be used
├── DataError         an image folder, mask or concept list that is missing or inconsistent
├── WeightsError      weights that cannot be read or do not fit the architecture
├── CheckpointError   a checkpoint folder that misses files or contradicts itself
└── EndpointError     a language model's endpoint that does not answer or refuses
"""


class TrainingError(Exception):
    """Something in the training room cannot go on; the message says what was expected and what to do."""


class SettingsError(TrainingError):
    """A settings file or value cannot be used."""


class DataError(TrainingError):
    """Training data is missing, empty or inconsistent."""


class WeightsError(TrainingError):
    """Weights cannot be read or do not fit the architecture."""


class CheckpointError(TrainingError):
    """A checkpoint folder misses files or contradicts itself."""


class EndpointError(TrainingError):
    """The endpoint of a language model does not answer, or refuses."""
