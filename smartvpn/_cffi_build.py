"""Builds the extension `smartvpn._core`: its only declarations are the public C headers, preprocessed.

cffi, API mode, abi3.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent.parent
INCLUDE = ROOT / "csrc" / "include"

# Headers whose types cffi knows already: empty, so that only our own declarations are left.
STUBS = {
    "stdbool.h": "",
    "stddef.h": "",
    "stdint.h": "",
}


def declarations() -> str:
    """The public headers as cffi reads them."""
    stubs = ROOT / "build" / "stubs"
    stubs.mkdir(parents=True, exist_ok=True)
    for name, text in STUBS.items():
        (stubs / name).write_text(text)
    command = ["gcc", "-E", "-P", "-nostdinc", "-DSV_API=", f"-I{stubs}", f"-I{INCLUDE}"]
    text = subprocess.run(
        [*command, "-x", "c", "-"],
        input="#include <smartvpn/smartvpn.h>\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    constants = re.findall(r"#define (SV_[A-Z0-9_]+) (?:\d+|UINT32_MAX)\b", _headers())
    return text + "".join(f"\n#define {name} ..." for name in constants)


def _headers() -> str:
    return "".join(path.read_text() for path in sorted((INCLUDE / "smartvpn").glob("*.h")))


def make_ffi(libraries: list[str]) -> FFI:
    """The builder, linked against the static core and the system libraries it names."""
    ffi = FFI()
    ffi.cdef(declarations())
    ffi.set_source(
        "smartvpn._core",
        "#include <smartvpn/smartvpn.h>",
        include_dirs=[str(INCLUDE)],
        extra_objects=[str(ROOT / os.environ.get("SMARTVPN_BUILD", "build") / "libsmartvpn.a")],
        extra_link_args=libraries,
        py_limited_api=True,
        define_macros=[("Py_LIMITED_API", "0x030b0000")],
    )
    return ffi


def link_arguments() -> list[str]:
    """The system libraries, as the Makefile lists them."""
    given = os.environ.get("SMARTVPN_LIBS")
    if given is None:
        given = subprocess.run(
            ["make", "-s", "-C", str(ROOT), "print-libs"], capture_output=True, text=True, check=True
        ).stdout
    return given.split()


def _is_fresh() -> bool:
    built = ROOT / "smartvpn" / "_core.abi3.so"
    sources = [ROOT / "build" / "libsmartvpn.a", Path(__file__), *(INCLUDE / "smartvpn").glob("*.h")]
    return built.exists() and all(path.stat().st_mtime <= built.stat().st_mtime for path in sources)


if __name__ == "__main__":
    if not _is_fresh():
        output = make_ffi(link_arguments()).compile(tmpdir=str(ROOT / "build" / "cffi"))
        Path(output).replace(ROOT / "smartvpn" / "_core.abi3.so")
