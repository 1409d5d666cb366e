"""Code answers: one piece of code is extracted from a text, and run against tests in a sandbox."""

import re
from dataclasses import dataclass, field

from dmaxlit.errors import UserError
from dmaxlit.sandbox import SandboxSettings, Verdict, run_tests

# A fence on a line of its own, or behind text if it is marked as Python; its indentation, its language, and its content
# up to the next one or to the end.
_FENCED = re.compile(
    r"^(?:(?P<indent>[ \t]*)```[ \t]*(?P<language>\w*)|[^\n`]*\S[ \t]*```[ \t]*(?:py|python3?)\b)[^\n`]*\n"
    r"(?P<content>.*?)(?:^[ \t]*```|\Z)",
    re.MULTILINE | re.DOTALL,
)
_DEFINITION = re.compile(r"^[ \t]*(?:async[ \t]+def|def|class)[ \t]+\w", re.MULTILINE)
_BEGINNING = re.compile(r"^(?:async[ \t]+def|def|class|import|from|@)", re.MULTILINE)  # of a module's statement
_PYTHON = ("", "py", "python", "python3")


def extract_code(text: str) -> str | None:
    """Return the code of an answer, or None if it has none.

    It is the content of the last block fenced with three backticks that is marked as Python or not at all; of the last
    one with a function or class if there is one, as an example of its use may follow. The last fence may be left open.
    Lines lose the indentation of their fence, unless they need it. A text without any fence is code as a whole, also if
    one ends it.
    """
    text = text.replace("\r\n", "\n")
    code, fence, rest = text.partition("```")
    if fence and not rest.strip() and code.strip():
        return code
    blocks = [block for block in _FENCED.finditer(text) if (block["language"] or "").lower() in _PYTHON]
    if blocks:
        contents = [_without_indent(block["content"], block["indent"] or "") for block in blocks]
        code = ([content for content in contents if _DEFINITION.search(content)] or contents)[-1]
    elif fence and _FENCED.search(text):
        return None
    else:
        code = text
    return code if code.strip() else None


def _without_indent(content: str, indent: str) -> str:
    """Return lines without the indentation of their fence, unless they need it, as the body of a function does."""
    lines = content.splitlines(keepends=True)
    if not all(line.startswith(indent) or not line.strip() for line in lines):
        return content
    moved = "".join(line.removeprefix(indent) for line in lines)
    return moved if _BEGINNING.search(moved) else content


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
        """Return whether the code passes all tests; see :meth:`verdict`."""
        verdict = self.verdict(text)
        return verdict is not None and verdict.passed

    def verdict(self, text: str) -> Verdict | None:
        """Return what the tests say about the code, or None if there is no code.

        Raises:
            UserError: If the tests cannot be run, which says nothing about the code.
        """
        code = self.extract(text)
        if code is None:
            return None
        verdict = run_tests(
            self.prefix + code, self.tests, names=self.names, preamble=self.preamble, settings=self.settings
        )
        if verdict.outcome == "error":
            raise UserError(f"sandbox: {verdict.detail}")
        return verdict
