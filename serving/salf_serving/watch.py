"""Watching the repository: what changed there is copied, checked and tried in a Triton of its own before it counts."""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from salf_contract import CONFIG_FILE, may_be_model
from salf_serving.errors import (
    ModelLoadError,
    PortTakenError,
    ProbeError,
    ProbeTimeoutError,
    RefusedVersionError,
    RepositoryError,
    ServingError,
    StartupTimeoutError,
)
from salf_serving.repository import check_repository, unreadable
from salf_serving.snapshot import content_digest, copy_model, link_model, signature
from salf_serving.verification import check_documents, check_files, family_of

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Change:
    """Models of one family that were found good together.

    Attributes:
        family: what they were published as.
        copies: model -> its checked copy, outside what is served.
        removed: models that the repository no longer holds.
        signatures: model -> what it looks like in the repository.
        folder: holds the copies; whoever takes the change removes it.
    """

    family: str
    copies: Mapping[str, Path]
    removed: tuple[str, ...]
    signatures: Mapping[str, str]
    folder: Path


class RepositoryWatch:
    """Compares a repository with what is served.

    Attributes:
        served: model -> its signature in the repository when it was put into service.
    """

    def __init__(
        self,
        repository: Path,
        live: Path,
        *,
        try_models: Callable[[Path], None],
        on_refused: Callable[[str, RefusedVersionError], None],
    ) -> None:
        """Watch a repository.

        Args:
            repository: where people publish.
            live: the copies that are served; only read here.
            try_models: starts the models of a folder and probes them; raises a ServingError if they are not right.
            on_refused: told of each refused family, once.
        """
        self._repository, self._live = repository, live
        self._try_models, self._on_refused = try_models, on_refused
        self.served: dict[str, str] = {}
        self._seen: dict[str, str] = {}
        self._refused_looks: set[tuple[tuple[str, str], ...]] = set()
        self._unreadable: dict[str, RefusedVersionError] = {}
        self._refused_contents: dict[str, RefusedVersionError] = {}
        self._postponed: dict[str, Mapping[str, str]] = {}

    def first_copy(self) -> None:
        """Fill the folder of served copies.

        Raises:
            RepositoryError: the repository cannot be served, or not be copied.
            RefusedVersionError: one of its models is not as it was published.
        """
        for name in check_repository(self._repository, copied=True):
            try:
                look = signature(self._repository / name)
                copy_model(self._repository / name, self._live / name)
            except OSError as error:
                raise RepositoryError(
                    f"model {name} cannot be copied to where it is served from, below $XDG_STATE_HOME: {error}"
                ) from error
            check_files(self._live / name)
            check_documents(self._live / name)
            self.served[name] = look

    def look(self) -> Change | None:
        """Compare once; what differs must look the same twice before it counts.

        Returns:
            A change that proved good, or None.
        """
        now = self._signatures()
        before, self._seen = self._seen, now
        if not now or now != before:
            return None
        # What no longer looks so is told again when it does: somebody may close a folder twice.
        self._refused_looks = {looks for looks in self._refused_looks if set(looks) <= now.items()}
        gone = tuple(sorted(self.served.keys() - now.keys()))
        if gone:
            return self._removal(gone)
        changed = [name for name, look in sorted(now.items()) if self.served.get(name) != look]
        for family, names in self._families(changed).items():
            looks = tuple((name, now[name]) for name in names)
            if looks in self._refused_looks:
                continue
            if closed := [self._unreadable[name] for name in names if name in self._unreadable]:
                self.refuse(family, looks, closed[0])
                continue
            change = self._checked(family, dict(looks))
            if change is not None:
                return change
        return None

    def put_into_service(self, change: Change) -> None:
        """Remember that a change is served."""
        self.served |= change.signatures
        for name in change.removed:
            self.served.pop(name, None)

    def refuse(self, family: str, looks: Iterable[tuple[str, str]], error: RefusedVersionError) -> None:
        """Remember that a family, as it looks, must not be served."""
        self._refused_looks.add(tuple(sorted(looks)))
        self._on_refused(family, error)

    def _signatures(self) -> dict[str, str]:
        """Model -> signature; empty if the repository is not there or is being changed at this moment."""
        try:
            folders = list(filter(may_be_model, self._repository.iterdir()))
        except OSError:
            return {}
        found = {}
        self._unreadable = {}
        for folder in folders:
            try:
                if (folder / CONFIG_FILE).is_file():
                    found[folder.name] = signature(folder)
            except FileNotFoundError:
                return {}
            except RefusedVersionError as error:
                self._unreadable[folder.name] = error
            except OSError as error:  # that of one folder must not keep the others from being looked at
                said = unreadable(folder, error)
                self._unreadable[folder.name] = RefusedVersionError(said, reason="unreadable", lasting=False)
        return found | {name: f"unreadable: {error}" for name, error in self._unreadable.items()}

    def _families(self, names: Iterable[str]) -> dict[str, list[str]]:
        families: dict[str, list[str]] = {}
        for name in names:
            try:
                family = family_of(self._repository / name)
            except (RefusedVersionError, OSError):
                family = _family_of_copy(self._live / name)
            families.setdefault(family, []).append(name)
        return families

    def _removal(self, models: tuple[str, ...]) -> Change | None:
        what = f"the removal of {', '.join(models)}"
        try:
            folder = Path(tempfile.mkdtemp(prefix="change-", dir=self._live.parent))
        except OSError as error:
            self._postpone(what, {}, error)
            return None
        self._postponed.pop(what, None)  # it may be added and removed again
        return Change(family="", copies={}, removed=models, signatures={}, folder=folder)

    def _checked(self, family: str, looks: Mapping[str, str]) -> Change | None:
        try:
            folder = Path(tempfile.mkdtemp(prefix="change-", dir=self._live.parent))
        except OSError as error:
            self._postpone(family, looks, error)
            return None
        keep = False
        try:
            models = folder / "models"
            digest = ""
            try:
                for name in looks:
                    copy_model(self._repository / name, models / name)
                    digest += content_digest(models / name)
                if (known := self._refused_contents.get(digest)) is not None:
                    self._refused_looks.add(tuple(sorted(looks.items())))
                    _logger.info("%s is still refused: %s", family, known)
                    return None
                self._check_all(models, looks)
            except RefusedVersionError as error:
                if digest and error.lasting:
                    self._refused_contents[digest] = error
                self.refuse(family, looks.items(), error)
                return None
            keep = True
        except (OSError, PortTakenError) as error:
            self._postpone(family, looks, error)
            return None
        finally:
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)
        copies = {name: models / name for name in looks}
        return Change(family=family, copies=copies, removed=(), signatures=dict(looks), folder=folder)

    def _postpone(self, family: str, looks: Mapping[str, str], error: Exception) -> None:
        """Say it once: it is tried every second, and a disk may be full for days."""
        if self._postponed.get(family) != looks:
            _logger.warning("%s could not be checked, which is tried again until it can: %s", family, error)
        self._postponed[family] = looks

    def _check_all(self, models: Path, names: Iterable[str]) -> None:
        for name in names:
            check_files(models / name)
            check_documents(models / name)
        # The rest of the repository comes along, because models may call each other.
        for other in sorted(self._live.iterdir()):
            if not (models / other.name).exists():
                link_model(other, models / other.name)
        try:
            self._try_models(models)
        except (StartupTimeoutError, ProbeTimeoutError) as error:
            raise RefusedVersionError(str(error), reason="timeout", lasting=False) from error
        except ProbeError as error:
            raise RefusedVersionError(str(error), reason="probe") from error
        except (ModelLoadError, RepositoryError) as error:
            raise RefusedVersionError(str(error), reason="load") from error
        except PortTakenError:
            raise
        except ServingError as error:  # of this machine at this moment, as far as is known: no memory, no disk
            raise RefusedVersionError(str(error), reason="load", lasting=False) from error


def _family_of_copy(model: Path) -> str:
    try:
        return family_of(model)
    except (RefusedVersionError, OSError):
        return model.name
