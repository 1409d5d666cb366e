"""Code answers: one piece of code is extracted from a text, and run against tests in a sandbox."""

import re
from dataclasses import dataclass, field

from dmaxlit.sandbox import SandboxSettings, Verdict, run_tests

# A fence on a line of its own, its language, and its content up to the next one or to the end.
_FENCED = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_PYTHON = ("", "py", "python", "python3")


def extract_code(text: str) -> str | None:
    """Return the code of an answer, or None if it has none.

    It is the content of the last block fenced with three backticks that is marked as Python or not at all; the last
    fence may be left open. A text without any fence is code as a whole.
    """
    text = text.replace("\r\n", "\n")
    blocks = list(_FENCED.finditer(text))
    if blocks:
        python = [content for language, content in (block.groups() for block in blocks) if language.lower() in _PYTHON]
        return python[-1] if python and python[-1].strip() else None
    return text if text.strip() else None


@dataclass(frozen=True)
class CodeGrader:
    """Runs the code of an answer against tests.

    Args:
        tests: Statements that raise unless the code is right.
        names: What they use of the code.
        preamble: Statements that the tests need before, trusted ones.
        prefix: Code that the answer's code continues.
        settings: Bounds of the sandbox.
    """

    tests: str
    names: tuple[str, ...]
    preamble: str = ""
    prefix: str = ""
    settings: SandboxSettings = field(default_factory=SandboxSettings)

    def extract(self, text: str) -> str | None:
        """Return the code that is run but for the prefix; see :func:`extract_code`."""
        return extract_code(text)

    def __call__(self, text: str) -> bool:
        """Return whether the code passes all tests."""
        verdict = self.verdict(text)
        return verdict is not None and verdict.passed

    def verdict(self, text: str) -> Verdict | None:
        """Return what the tests say about the code, or None if there is no code."""
        code = self.extract(text)
        if code is None:
            return None
        return run_tests(
            self.prefix + code, self.tests, names=self.names, preamble=self.preamble, settings=self.settings
        )
