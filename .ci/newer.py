"""Print which direct dependencies have a newer release than is installed: those that our upper bounds hold back.

    python .ci/newer.py

To be run where the newest allowed versions are installed. Fails if there are any; .ci/run continues.
"""

import json
import subprocess
import sys

from lowest import requirements
from packaging.utils import canonicalize_name


def main() -> None:
    """Ask pip, and print one line for each."""
    command = [sys.executable, "-m", "pip", "list", "--outdated", "--format", "json", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"newer: pip could not tell\n{done.stderr[-1000:]}")
    outdated = {canonicalize_name(package["name"]): package for package in json.loads(done.stdout)}
    direct = {canonicalize_name(requirement.name): requirement for requirement in requirements()}
    held = [name for name in sorted(direct) if name in outdated]
    print(f"newer: {len(held)} of {len(direct)} direct dependencies are behind their newest release")
    for name in held:
        latest, specifier = outdated[name]["latest_version"], direct[name].specifier
        why = "another package holds it back" if specifier.contains(latest) else f"we allow {specifier}"
        print(f"  {name} {latest}: {outdated[name]['version']} is installed, {why}")
    sys.exit(bool(held))


if __name__ == "__main__":
    main()
