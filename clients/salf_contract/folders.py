"""Which folders of a model repository are looked at."""

from pathlib import Path

#: In the root of every ext file system, such as a volume of a cluster.
_OF_THE_FILE_SYSTEM = "lost+found"


def may_be_model(folder: Path) -> bool:
    """Whether a folder of a repository may be a model by its name: neither hidden, nor the file system's own.

    The latter is closed to everybody but root: whoever may read the models may not look into it.
    """
    return folder.name[0] != "." and folder.name != _OF_THE_FILE_SYSTEM
