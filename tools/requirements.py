"""Prints what pyproject.toml asks for, all extras included, one requirement a line."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
extras = project["optional-dependencies"].values()
for requirement in [*project["dependencies"], *(item for extra in extras for item in extra)]:
    print(requirement.replace(" ", ""))
