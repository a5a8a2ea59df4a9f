"""Builds the C core with make, then the cffi extension against it; everything else is in pyproject.toml."""

import importlib.util
import os
import subprocess
from pathlib import Path
from types import ModuleType

from setuptools import setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class BuildCore(build_ext):
    """libsmartvpn.a before the extension that holds it."""

    def run(self) -> None:
        build = os.environ.get("SMARTVPN_BUILD", "build")
        make = ["make", "-C", str(ROOT), f"BUILD={build}"]
        subprocess.run([*make, "vendor"], check=True)
        subprocess.run([*make, f"-j{os.cpu_count()}", f"{build}/libsmartvpn.a"], check=True)
        for extension in self.extensions:
            extension.extra_link_args = cffi_build().link_arguments()  # vendor may have brought more
        super().run()


def cffi_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_cffi_build", ROOT / "smartvpn" / "_cffi_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def extensions() -> list[object]:
    return [cffi_build().make_ffi(cffi_build().link_arguments()).distutils_extension(tmpdir="build/cffi")]


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildCore},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
