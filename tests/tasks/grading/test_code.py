import pickle

import pytest

from dmaxlit.errors import UserError
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
        ("1. So:\n   ```python\n   def f(x):\n\n       return x\n   ```", "def f(x):\n\n    return x\n"),
        ("    ```python\n    return x\n    ```", "    return x\n"),
        (f"Here is: ```python\n{CODE}```", CODE),
        (f"{CODE}```", CODE),
        (f"{CODE}```\n", CODE),
        ("    return False```", "    return False"),
        ("Use ``` for code:\n```bash\nls\n```", None),
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


@pytest.mark.parametrize("example", ["```python\nprint(f(1))\n```", "```\n1\n```", "```python\nf(2)"])
def test_an_example_of_its_use_is_not_the_code(example):
    assert extract_code(f"```python\ndef g():\n    pass\n```\n```python\n{CODE}```\nExample:\n{example}") == CODE
    assert extract_code(f"```python\n0\n```\n{example}") == extract_code(example)


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


@needs_sandbox
def test_tests_that_cannot_be_run_say_nothing_about_an_answer():
    grader = CodeGrader("assert f(1) == 1", ("f",), "import absent")
    with pytest.raises(UserError, match=r"^sandbox: the tests cannot be run: ModuleNotFoundError: No module named 'ab"):
        grader(CODE)
