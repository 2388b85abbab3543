"""Conditions of the platform, each told with its remedy."""

import os
import platform
import sys
import sysconfig

import pytest

from salf_serving import PlatformError
from salf_serving.machine import check_machine, find_libpython, glibc_version


def test_this_machine_is_good_enough():
    check_machine()
    assert find_libpython().name == f"libpython3.{sys.version_info.minor}.so.1.0"


@pytest.mark.parametrize(("system", "processor"), [("Darwin", "arm64"), ("Linux", "aarch64"), ("Windows", "AMD64")])
def test_other_platforms_are_sent_to_the_container(monkeypatch, system, processor):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: processor)
    with pytest.raises(PlatformError, match=f"needs x86-64 Linux, but this is {processor} {system}; .*container"):
        check_machine()


@pytest.mark.parametrize(
    ("answer", "version"), [("glibc 2.36", (2, 36)), ("glibc 2.4.1", (2, 4)), ("musl 1.2", None), (None, None)]
)
def test_glibc_version_is_read(monkeypatch, answer, version):
    monkeypatch.setattr(os, "confstr", lambda _name: answer)
    assert glibc_version() == version


@pytest.mark.parametrize(("answer", "words"), [("glibc 2.31", "has glibc 2.31"), ("musl 1.2", "has another C library")])
def test_an_old_or_other_c_library_is_refused(monkeypatch, answer, words):
    monkeypatch.setattr(os, "confstr", lambda _name: answer)
    with pytest.raises(PlatformError, match=f"glibc >= 2.35, but this system {words}"):
        check_machine()


def test_musl_has_no_such_name(monkeypatch):
    def refuse(_name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", refuse)
    assert glibc_version() is None


@pytest.mark.parametrize("version", [(3, 10), (3, 13)])
def test_other_pythons_are_refused(monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    with pytest.raises(PlatformError, match=rf"CPython 3\.11 or 3\.12, but this is cpython 3\.{version[1]}"):
        check_machine()


def test_a_python_without_shared_library_is_told_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_config_var", {"LIBDIR": str(tmp_path)}.get)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    with pytest.raises(
        PlatformError, match=r"no shared library libpython3\.\d+\.so\.1\.0.*libpython3.*--enable-shared"
    ):
        find_libpython()


def test_a_distribution_keeps_its_library_in_the_multiarch_folder(monkeypatch):
    monkeypatch.setattr(sysconfig, "get_config_var", {"MULTIARCH": "x86_64-linux-gnu", "LIBDIR": "/nowhere"}.get)
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr("pathlib.Path.is_file", lambda path: "x86_64-linux-gnu" in str(path))
    assert find_libpython().parent.as_posix() == "/usr/lib/x86_64-linux-gnu"
