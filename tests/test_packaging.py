"""What users install: the C library by `make install`, the Python package from a source distribution."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

import pytest

import smartvpn
from tests.c_library import ROOT, install, pkg_config, run

PROGRAM = """
#include <smartvpn/smartvpn.h>
#include <stdio.h>
int main(void)
{
    unsigned char private_key[SV_KEY_SIZE], public_key[SV_KEY_SIZE];
    puts(sv_version());
    return sv_keypair_generate(private_key, public_key);
}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `make install` has put the C library, PREFIX and all."""
    root = tmp_path_factory.mktemp("installed")
    return install(root)


def test_a_program_links_the_shared_library(installed: Path, tmp_path: Path) -> None:
    """pkg-config's flags are all a program needs, and what it links is the soname."""
    source = tmp_path / "program.c"
    source.write_text(PROGRAM)
    run(
        "cc",
        "-Wall",
        "-Werror",
        source,
        *pkg_config(installed, "--cflags", "--libs"),
        "-o",
        tmp_path / "program",
    )
    assert run(tmp_path / "program", LD_LIBRARY_PATH=str(installed / "lib")).strip() == smartvpn.__version__
    assert "[libsmartvpn.so.0]" in run("readelf", "-d", tmp_path / "program")


def test_a_program_links_the_static_library(installed: Path, tmp_path: Path) -> None:
    """With --static the libraries below come too."""
    source = tmp_path / "program.c"
    source.write_text(PROGRAM)
    flags = pkg_config(installed, "--cflags", "--libs", "--static")
    archive = [str(installed / "lib/libsmartvpn.a") if flag == "-lsmartvpn" else flag for flag in flags]
    run("cc", "-Wall", "-Werror", source, *archive, "-o", tmp_path / "program")
    assert run(tmp_path / "program").strip() == smartvpn.__version__


@pytest.mark.parametrize(("compiler", "suffix"), [("cc", "c"), ("c++", "cc")])
def test_each_header_stands_alone(installed: Path, tmp_path: Path, compiler: str, suffix: str) -> None:
    """As C and as C++, with every warning."""
    for header in (installed / "include/smartvpn").iterdir():
        source = tmp_path / f"{header.stem}.{suffix}"
        source.write_text(f"#include <smartvpn/{header.name}>\n")
        flags = ("-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{installed}/include", "-fsyntax-only")
        run(compiler, *flags, source)


def test_only_our_names_are_exported(installed: Path) -> None:
    """And all that the headers declare."""
    lines = run("nm", "-D", "--defined-only", installed / "lib/libsmartvpn.so").splitlines()
    names = {line.split()[2] for line in lines}
    assert [name for name in names if not name.startswith("sv_")] == []
    assert {"sv_server_open", "sv_client_open", "sv_engine_close", "sv_key_parse", "sv_strerror"} <= names


def unpacked_sdist(folder: Path) -> Path:
    """A source distribution made from a checkout without anything built, unpacked."""
    tree = folder / "tree"
    for name in run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")[:-1]:
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)  # with its mode
    run(sys.executable, "setup.py", "-q", "sdist", "-d", folder, cwd=tree)
    [archive] = folder.glob("smartvpn-*.tar.gz")
    run("tar", "xzf", archive, cwd=folder)
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.mark.long(20)
def test_the_package_installs_from_a_source_distribution(tmp_path: Path) -> None:
    """The wheel built from it serves every CPython from 3.11 on, holds no C, and its daemon runs."""
    source = unpacked_sdist(tmp_path)
    pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source, CFLAGS="-O1")
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"smartvpn-{smartvpn.__version__}-cp311-abi3-linux_")
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.endswith((".c", ".h", ".a"))] == []
    assert {"smartvpn/_core.abi3.so", "smartvpn/py.typed", "smartvpn/network/__init__.py"} <= set(names)
    site = tmp_path / "site"
    run(*pip, "install", "--no-deps", "--target", site, wheel)
    keys = run(site / "bin/smartvpn_daemon", "--generate-keypair", cwd=tmp_path, PYTHONPATH=str(site))
    assert "privateKey" in keys
    program = "import smartvpn; print(smartvpn.__file__)"
    where = run(sys.executable, "-P", "-c", program, cwd=tmp_path, PYTHONPATH=str(site))
    assert Path(where.strip()).is_relative_to(site)
