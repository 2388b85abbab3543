"""A look at a model repository before Triton sees it: Triton's own words for these mistakes are hard to read."""

from pathlib import Path

from salf_contract import may_be_model
from salf_serving.aliases import is_shell_safe
from salf_serving.errors import RepositoryError

PROBE_FILE = "probe.npz"
_EXPORT = "write one with `salf export`"


def check_repository(repository: Path, *, copied: bool = False) -> tuple[str, ...]:
    """Check that there is something to serve.

    Args:
        repository: folder with one folder per model.
        copied: whether Triton gets copies of the models only. Then hidden folders, and that of the file system, may lie
            beside them; Triton itself takes every folder for a model.

    Returns:
        Names of its models, sorted.

    Raises:
        RepositoryError: no such folder, no model in it, or a model unreadable or without config.pbtxt or version.
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
        try:
            _check_model(model)
        except OSError as error:
            raise RepositoryError(unreadable(model, error)) from error
    return tuple(model.name for model in models)


def unreadable(model: Path, error: OSError) -> str:
    """A sentence on a folder that cannot be looked into, and what to do."""
    return (
        f"{error.filename or model} cannot be read: {error.strerror or error}; let the server's user read it, or move "
        f"{model} out of the repository"
    )


def _check_model(model: Path) -> None:
    if not is_shell_safe(model.name):
        raise RepositoryError(
            f"model folder {model.name!r} in {model.parent} must be named with letters, digits, _, - and dots only, "
            "because Triton passes the name through a shell; rename it"
        )
    if not (model / "config.pbtxt").is_file():
        hint = "; is the repository the folder above?" if model.name.isdigit() else "; export it again or move it"
        raise RepositoryError(f"{model} is not a model: it has no config.pbtxt{hint}")
    if not version_folders(model):
        raise RepositoryError(
            f"model {model.name} in {model.parent} has no version folder (1, 2, ...); export it again"
        )


def version_folders(model: Path) -> tuple[Path, ...]:
    """Folders of a model that Triton takes for versions, oldest first."""
    folders = [path for path in model.iterdir() if path.is_dir() and path.name.isdecimal() and path.name[0] != "0"]
    return tuple(sorted(folders, key=lambda path: int(path.name)))
