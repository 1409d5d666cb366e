"""Run some of the tests with every warning an error, and print the distinct ones: what the next releases will bring.

    python .ci/notices.py

Warnings that pyproject.toml names to ignore are known and stay ignored. Fails if there are others; .ci/run continues.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
# Where most of our dependencies are used: models, training, the command line.
TESTS = [
    "tests/backbone",
    "tests/callbacks",
    "tests/metrics",
    *(f"tests/cli/test_{name}.py" for name in ("training", "evaluate")),
]
WARNING = re.compile(r"^(?:E +)?((?:\w+\.)*\w*Warning: .*)$", re.MULTILINE)


def filters() -> str:
    """Return the filters of pyproject.toml, with errors in place of the warnings that it does not name."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = pyproject["tool"]["pytest"]["ini_options"]["filterwarnings"]
    return "\n".join("error" if line == "default" else line for line in lines)


def reasons(report: Path) -> Counter[str]:
    """Count the failed tests by reason: the warning, or else the first line of the error."""
    counts: Counter[str] = Counter()
    for problem in ElementTree.parse(report).iterfind(".//testcase/*"):
        if problem.tag in ("failure", "error"):
            text = f"{problem.get('message')}\n{problem.text}"
            warning = WARNING.search(text)
            counts[warning[1] if warning else f"no warning, but: {text.splitlines()[0]}"] += 1
    return counts


def main() -> None:
    """Run the tests and print the verdict; pytest's output is printed only if there is no report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
        command += ["-o", f"filterwarnings={filters()}", "--junitxml", str(report), *TESTS]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not report.exists():  # raised by a module that every test imports
            output = done.stdout + done.stderr
            warning = WARNING.search(output)
            sys.exit(f"notices: no test could start\n  {warning[1] if warning else output[-2000:]}")
        counts = reasons(report)
    if counts:
        print(f"notices: {len(counts)} distinct, in {counts.total()} tests")
        for reason, count in counts.most_common():
            print(f"  {count:4d} x {reason[:300]}")
    else:
        print("notices: none" if done.returncode == 0 else f"notices: pytest ended with {done.returncode}")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
