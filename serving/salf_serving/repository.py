"""A look at a model repository before Triton sees it: Triton's own words for these mistakes are hard to read."""

from pathlib import Path

from salf_serving.aliases import is_shell_safe
from salf_serving.errors import RepositoryError

PROBE_FILE = "probe.npz"
_EXPORT = "write one with `salf export`"
#: In the root of every ext file system, such as a volume of a cluster.
_OF_THE_FILE_SYSTEM = "lost+found"


def may_be_model(folder: Path) -> bool:
    """Whether a folder of a repository may be a model by its name: neither hidden, nor the file system's own.

    The latter is closed to everybody but root: whoever may read the models may not look into it.
    """
    return folder.name[0] != "." and folder.name != _OF_THE_FILE_SYSTEM


def check_repository(repository: Path, *, copied: bool = False) -> tuple[str, ...]:
    """Check that there is something to serve.

    Args:
        repository: folder with one folder per model.
        copied: whether Triton gets copies of the models only. Then hidden folders, and that of the file system, may lie
            beside them; Triton itself takes every folder for a model.

    Returns:
        Names of its models, sorted.

    Raises:
        RepositoryError: no such folder, no model in it, or a model without config.pbtxt or version.
    """
    if not repository.exists():
        raise RepositoryError(f"the model repository {repository} does not exist; {_EXPORT}")
    if not repository.is_dir():
        raise RepositoryError(f"the model repository {repository} is a file, but must be a folder of models; {_EXPORT}")
    models = sorted(path for path in repository.iterdir() if path.is_dir())
    if copied:
        models = [path for path in models if may_be_model(path)]
    if not models:
        raise RepositoryError(f"the model repository {repository} holds no models; {_EXPORT}")
    for model in models:
        if not is_shell_safe(model.name):
            raise RepositoryError(
                f"model folder {model.name!r} in {repository} must be named with letters, digits, _, - and dots only, "
                "because Triton passes the name through a shell; rename it"
            )
        if not (model / "config.pbtxt").is_file():
            hint = "; is the repository the folder above?" if model.name.isdigit() else "; export it again or move it"
            raise RepositoryError(f"{model} is not a model: it has no config.pbtxt{hint}")
        if not version_folders(model):
            raise RepositoryError(
                f"model {model.name} in {repository} has no version folder (1, 2, ...); export it again"
            )
    return tuple(model.name for model in models)


def version_folders(model: Path) -> tuple[Path, ...]:
    """Folders of a model that Triton takes for versions, oldest first."""
    folders = [path for path in model.iterdir() if path.is_dir() and path.name.isdecimal() and path.name[0] != "0"]
    return tuple(sorted(folders, key=lambda path: int(path.name)))
