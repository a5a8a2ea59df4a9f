"""Nothing looks up: each layer uses itself and what lies below it, in C and in Python."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

C_LAYERS = ["base", "crypto", "packet", "policy", "proto", "io", "transport", "engine", "program"]
C_SOURCES = sorted((ROOT / "csrc").glob("*/*.[ch]"))
PUBLIC = sorted((ROOT / "csrc" / "include").glob("*/*.h"))

PYTHON_LAYERS = [
    {"_version", "_caller", "_extras"},
    {"errors"},
    {"keys"},
    {"_address"},
    {"_weblisten"},
    {"_fields"},
    {"config"},
    {"types"},
    {"events"},
    {"_json"},
    {"configfile", "_files"},
    {"commands"},
    {"ipc"},
    {"wgconfig", "installer"},
    {"_native_types"},
    {"_native_read"},
    {"_native_status", "_native_write"},
    {"_native"},
    {"registry"},
    {"_names"},
    {"network"},
    {"_listeners"},
    {"_control", "_wgbackend"},
    {"_quic", "_upkeep", "_wgfollow"},
    {"hub", "_wgtunnel", "_known"},
    {"tunnel"},
    {"_links"},
    {"bridge"},
    {"_remote"},
    {"server", "client"},
    {"blocking"},
    {"_leftovers", "_management", "_notify", "_privileges", "_visitors"},
    {"metrics"},
    {"daemon"},
    {"cli", "dashboard"},
]
RANK = {name: rank for rank, names in enumerate(PYTHON_LAYERS) for name in names}
PYTHON_SOURCES = [
    path
    for path in sorted((ROOT / "smartvpn").rglob("*.py"))
    if path.name not in {"_cffi_build.py"} and path.parent.name != "__pycache__"
]


@pytest.mark.parametrize("source", C_SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_c_includes_look_down(source: Path) -> None:
    """A file of csrc includes its own folder and lower ones only."""
    own = C_LAYERS.index(source.parent.name)
    for folder in re.findall(r'#include "(\w+)/', source.read_text()):
        assert C_LAYERS.index(folder) <= own, f"{source.name} includes {folder}/"


@pytest.mark.parametrize("header", PUBLIC, ids=lambda path: path.name)
def test_public_headers_stand_alone(header: Path) -> None:
    """A public header includes public and standard ones only."""
    for included in re.findall(r'#include [<"]([^>"]+)', header.read_text()):
        assert included.startswith("smartvpn/") or included in {"stdbool.h", "stddef.h", "stdint.h"}


def _imports(path: Path) -> set[str]:
    """The package's modules that a file imports, by their first name below `smartvpn`."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("smartvpn.")}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            full = (*base, *(node.module or "").split(".")) if node.module else base
            if full and full[0] == "smartvpn":
                found |= {full[1]} if len(full) > 1 else {name.name for name in node.names}
    return found


@pytest.mark.parametrize("source", PYTHON_SOURCES, ids=lambda path: path.name)
def test_python_imports_look_down(source: Path) -> None:
    """A module imports from its own layer or lower ones only; the package's face may import all."""
    name = source.relative_to(ROOT / "smartvpn").with_suffix("").parts[0]
    if name == "__init__":
        return
    for imported in _imports(source) & RANK.keys():
        assert RANK[imported] <= RANK[name], f"{name} imports {imported}"
    assert name in RANK, f"{name} has no place in the layers"


def test_c_has_one_border() -> None:
    """The extension is for `_native` and its parts alone, and the parts are for `_native`."""
    for source in PYTHON_SOURCES:
        if not source.name.startswith("_native"):
            inside = {name for name in _imports(source) if name == "_core" or name.startswith("_native_")}
            assert not inside, f"{source.name} imports {inside}"
