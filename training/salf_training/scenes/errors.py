"""What can go wrong with scenes, as one exception."""


class SceneError(Exception):
    """A scene cannot be drawn, or a folder of scenes is missing or damaged; the message says which and what to do."""
