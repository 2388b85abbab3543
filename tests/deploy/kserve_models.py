"""KServe's description of its resources, read from its SDK's wheel without importing it: it brings a whole server."""

import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any


def download(version: str, folder: Path) -> Path:
    """The wheel of KServe's SDK."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        f"kserve=={version}",
    ]
    subprocess.run(command, check=True)
    return next(folder.glob("kserve-*.whl"))


def read_types(wheel: Path) -> dict[str, dict[str, str]]:
    """Type name -> key in YAML -> type of its value."""
    found: dict[str, dict[str, str]] = {}
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not re.fullmatch(r"kserve/models/v\w+\.py", name):
                continue
            for node in ast.parse(archive.read(name)).body:
                if isinstance(node, ast.ClassDef):
                    tables = {
                        statement.targets[0].id: ast.literal_eval(statement.value)
                        for statement in node.body
                        if isinstance(statement, ast.Assign)
                        and isinstance(statement.targets[0], ast.Name)
                        and statement.targets[0].id in ("openapi_types", "attribute_map")
                    }
                    if len(tables) == 2:
                        types, keys = tables["openapi_types"], tables["attribute_map"]
                        found[node.name] = {keys[attribute]: kind for attribute, kind in types.items()}
    return found


def problems(value: Any, kind: str, types: dict[str, dict[str, str]], where: str = "") -> list[str]:
    """Keys that KServe does not know, and values of another shape."""
    if matched := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            return [f"{where} must be a list"]
        return [
            one for index, item in enumerate(value) for one in problems(item, matched[1], types, f"{where}[{index}]")
        ]
    if matched := re.fullmatch(r"dict\(str, (.+)\)", kind):
        if not isinstance(value, dict):
            return [f"{where} must be a mapping"]
        return [one for key, item in value.items() for one in problems(item, matched[1], types, f"{where}.{key}")]
    plain = {"str": str, "int": int, "bool": bool, "float": (int, float)}
    if kind in plain:
        return [] if isinstance(value, plain[kind]) else [f"{where} must be {kind}, but is {value!r}"]
    if kind not in types:
        return []  # Kubernetes' own
    if not isinstance(value, dict):
        return [f"{where} must be a {kind}"]
    unknown = [f"{where}.{key}: {kind} has no such key" for key in value.keys() - types[kind].keys()]
    return unknown + [one for key, item in value.items() if key in types[kind]
                      for one in problems(item, types[kind][key], types, f"{where}.{key}")]  # fmt: skip
