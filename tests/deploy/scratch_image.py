"""Carry out a Dockerfile in folders, without a container engine: mmdebstrap's Debian, bubblewrap's namespaces.

Layers, caches and registries do not matter here; which files an image holds and whether they run does.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

from dockerfile_parse import DockerfileParser

#: How the host reaches packages; an image's own steps know nothing of it.
_HOST_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_INSIDE_CERTIFICATES = "/host-certificates.crt"


@dataclass(frozen=True)
class Image:
    """A finished stage: its files, and how it wants to be run."""

    root: Path
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    )
    folder: str = "/"
    user: int = 0
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    healthcheck: tuple[str, ...] = ()


def debian(suite: str, root: Path) -> Path:
    """What the image `debian:...-slim` holds, near enough: the packages that Debian cannot be without."""
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", "--aptopt=Acquire::Retries 3", suite, str(root)], check=True
    )
    return root


def build(
    dockerfile: Path, *, target: str, bases: dict[str, Path], work: Path, finished: dict[str, Image] | None = None
) -> Image:
    """Carry out the stages that `target` needs.

    Args:
        dockerfile: its folder is the build context.
        target: name of the last stage.
        bases: argument that names a base image -> root folder that holds it.
        work: for the stages' roots.
        finished: stages that need not be carried out.
    """
    found = stages(dockerfile)
    finished = dict(finished or {})

    def finish(name: str) -> Image:
        if name in finished:
            return finished[name]
        base, instructions = found[name]
        root = work / name
        start = finish(base) if base in found else Image(bases[base.strip("${}")])
        subprocess.run(["cp", "-a", f"{start.root}/.", str(root)], check=True)
        image = replace(start, root=root)
        for instruction, value in instructions:
            image = _carry_out(image, instruction, value, context=dockerfile.parent, finish=finish)
        finished[name] = image
        return image

    return finish(target)


def run(image: Image, *command: str, writable: bool, mounts: dict[str, Path], extra: tuple[str, ...] = ()) -> list[str]:
    """The command line that runs something inside an image.

    Args:
        image: to run in.
        command: its words.
        writable: whether the image's own files may change.
        mounts: path inside -> path on the host, read-only.
        extra: further words for bubblewrap.
    """
    words = ["bwrap", "--bind" if writable else "--ro-bind", str(image.root), "/", "--proc", "/proc", "--dev", "/dev",
             "--perms", "1777", "--tmpfs", "/tmp", "--unshare-pid", "--unshare-ipc", "--die-with-parent",
             "--chdir", image.folder, "--clearenv"]  # fmt: skip
    for name, value in image.environment.items():
        words += ["--setenv", name, value]
    for inside, outside in mounts.items():
        place = image.root / inside.lstrip("/")  # as an engine does, under files that are read-only afterwards
        if outside.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        words += ["--ro-bind", str(outside), inside]
    return [*words, *extra, "--", *command]


def stages(dockerfile: Path) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Stage -> (what it starts from, its instructions)."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    current: list[tuple[str, str]] = []
    with dockerfile.open("rb") as file:
        for entry in DockerfileParser(fileobj=file).structure:
            instruction, value = entry["instruction"], entry["value"]
            if instruction == "FROM":
                base, _, name = value.split()
                current = []
                found[name] = (base, current)
            elif instruction not in ("COMMENT", "ARG"):
                current.append((instruction, value))
    return found


def _carry_out(image: Image, instruction: str, value: str, *, context: Path, finish) -> Image:
    match instruction:
        case "RUN":
            _run_step(image, value)
        case "COPY":
            _copy_step(image, value.split(), context=context, finish=finish)
        case "ENV" | "WORKDIR" | "USER" | "ENTRYPOINT" | "CMD" | "HEALTHCHECK":
            return replace(image, **_setting(image, instruction, value))
        case "VOLUME":
            for path in json.loads(value):
                (image.root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        case "LABEL" | "EXPOSE":
            pass
        case _:
            raise AssertionError(f"{instruction} is not understood here")
    return image


def _setting(image: Image, instruction: str, value: str) -> dict[str, object]:
    """What an instruction changes about how the image is run."""
    match instruction:
        case "ENV":
            pairs = dict(word.split("=", 1) for word in value.replace("\\", " ").split())
            known = {name: text.replace("$PATH", image.environment["PATH"]) for name, text in pairs.items()}
            assert not any("$" in text for text in known.values()), known
            return {"environment": {**image.environment, **known}}
        case "WORKDIR":
            (image.root / value.lstrip("/")).mkdir(parents=True, exist_ok=True)
            return {"folder": value}
        case "USER":
            return {"user": int(value.split(":")[0])}
        case "ENTRYPOINT":
            return {"entrypoint": tuple(json.loads(value))}
        case "CMD":
            return {"command": tuple(json.loads(value))}
    return {"healthcheck": tuple(json.loads(value[value.index("CMD") + 3 :]))}


def _copy_step(image: Image, words: list[str], *, context: Path, finish) -> None:
    source = context
    if words[0].startswith("--from="):
        source = finish(words.pop(0).removeprefix("--from=")).root
    *names, destination = words
    _copy([source / name.lstrip("/") for name in names], image, destination)


def _run_step(image: Image, command: str) -> None:
    host = {name: value for name, value in os.environ.items() if name.startswith("PIP_") and name != "PIP_FIND_LINKS"}
    reaching = replace(image, environment={**host, "PIP_CERT": _INSIDE_CERTIFICATES, "PIP_ROOT_USER_ACTION": "ignore",
                                           "DEBIAN_FRONTEND": "noninteractive", **image.environment})  # fmt: skip
    mounts = {"/etc/resolv.conf": Path("/etc/resolv.conf"), _INSIDE_CERTIFICATES: _HOST_CERTIFICATES}
    words = run(reaching, "/bin/sh", "-euc", command, writable=True, mounts=mounts, extra=("--cap-add", "ALL"))
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 0, f"RUN {command}\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}"


def _copy(sources: list[Path], image: Image, destination: str) -> None:
    target = image.root / (Path(image.folder) / destination).as_posix().lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    into = destination.endswith("/")
    if into:
        target.mkdir(exist_ok=True)
    for source in sources:
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))  # fmt: skip
        else:
            shutil.copy2(source, target / source.name if into else target)
