import pickle

import pytest

from dmaxlit.sandbox import SandboxSettings
from dmaxlit.tasks.grading.code import CodeGrader, extract_code
from tests.sandbox.requirement import needs_sandbox

CODE = "def f(x):\n    return x\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"```python\n{CODE}```", CODE),
        (f"First:\n```python\nold()\n```\nNo, better:\n```py\n{CODE}```\nThat is all.", CODE),
        (f"```\n{CODE}```", CODE),
        (f"```python\n{CODE}", CODE),
        (f"```python\r\n{CODE}```".replace("\n", "\r\n"), CODE),
        (f"```Python\n{CODE}```\nRun it:\n```bash\npython f.py\n```", CODE),
        (f"1. So:\n   ```python\n{CODE}   ```", CODE),
        ('```python title="f.py"\ns = "```"\n```', 's = "```"\n'),
        (CODE, CODE),
        ("    return x\n", "    return x\n"),
        ("", None),
        (" \n", None),
        ("```python\n```", None),
        ("```bash\nls\n```", None),
    ],
)
def test_the_last_block_of_python_is_the_code(text, code):
    assert extract_code(text) == code


@needs_sandbox
def test_a_grader_runs_one_piece_of_code():
    grader = CodeGrader("assert f(1) == 2 * N", ("f",), "N = 1", "def g(x):\n    return 2\n", SandboxSettings())
    grader = pickle.loads(pickle.dumps(grader))
    right = "```python\ndef f(x):\n    return g(x)\n```"
    assert grader(right)
    assert not grader(f"{right}\n```python\n{CODE}```")
    assert not grader("")
    assert grader.verdict("") is None
    assert "AssertionError" in grader.verdict(CODE).detail
    assert not grader("def f(x):\n    return '\ud800\0'")
