"""Write the lowest version of each direct dependency that pyproject.toml allows, as constraints for pip.

    python .ci/lowest.py            writes .ci/constraints-lowest.txt
    python .ci/lowest.py --check    writes nothing, and fails where the file is not what would be written

Only what pyproject.toml names is listed; what those packages depend on is left to pip, which takes the newest.
"""

import argparse
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
FILE = ROOT / ".ci" / "constraints-lowest.txt"
HEADER = "# The lowest versions that pyproject.toml allows. Made by .ci/lowest.py; do not edit.\n"


def requirements() -> Iterator[Requirement]:
    """Yield what pyproject.toml requires: to build, to run, and in the extras, without the package itself."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = pyproject["project"]
    extras = project["optional-dependencies"].values()
    for line in chain(pyproject["build-system"]["requires"], project["dependencies"], *extras):
        requirement = Requirement(line)
        if requirement.name != project["name"]:
            yield requirement


def lowest(requirement: Requirement) -> Version:
    """Return the version after ``>=``. Each requirement has one such bound, and it is a release."""
    bounds = [specifier.version for specifier in requirement.specifier if specifier.operator == ">="]
    if len(bounds) != 1:
        sys.exit(f"pyproject.toml: expected {requirement.name} with one lower bound (>=), got {str(requirement)!r}")
    return Version(bounds[0])


def constraints() -> str:
    """Text of the file. A package named twice must satisfy both bounds, so the higher one counts."""
    versions: dict[str, Version] = {}
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        versions[name] = max(lowest(requirement), versions.get(name, Version("0")))
    return HEADER + "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


def main() -> None:
    """Write the file, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        FILE.write_text(constraints(), encoding="utf-8")
    elif not FILE.exists() or FILE.read_text(encoding="utf-8") != constraints():
        sys.exit(f"{FILE.relative_to(ROOT)} is not what pyproject.toml says: run python .ci/lowest.py")


if __name__ == "__main__":
    main()
