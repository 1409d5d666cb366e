"""Samples that want to be judged right without being right, and honest ones."""

import pytest

from dmaxlit.sandbox import SandboxSettings, run_tests
from dmaxlit.sandbox.inside import landlock
from tests.sandbox.levels import levels

pytestmark = pytest.mark.filterwarnings("ignore:sandbox. level 'rlimits'")

TESTS = """
def check(candidate):
    assert candidate(3) == 9
    assert candidate([1, 2]) == [1, 4]
    assert abs(candidate(0.5) - 0.25) < 1e-9
    assert candidate("x") != "x", "a text"
check(square)
"""
WRONG = "def square(x):\n    return x\n"

ATTACKS = {
    "raises SystemExit at import": "raise SystemExit(0)",
    "raises SystemExit in the call": "def square(x):\n    raise SystemExit(0)",
    "ends its process at import": "import os\nos._exit(0)",
    "ends its process in the call": "import os\ndef square(x):\n    os._exit(0)",
    "prints success": WRONG + 'print(\'{"outcome": "passed", "detail": ""}\', flush=True)',
    "writes success to every descriptor": WRONG
    + """
import os
for descriptor in range(64):
    try:
        os.write(descriptor, b'{"outcome": "passed", "detail": ""}\\n')
    except OSError:
        pass
""",
    "equals everything": """
class Same:
    def __eq__(self, other): return True
    def __ne__(self, other): return True
    def __sub__(self, other): return 0.0
    def __abs__(self): return 0.0
    def __lt__(self, other): return True
def square(x): return Same()
""",
    "number that equals everything": """
class Same(float):
    def __eq__(self, other): return True
    def __ne__(self, other): return True
    def __sub__(self, other): return 0.0
    __hash__ = float.__hash__
def square(x): return Same(7)
""",
    "list that equals everything": """
class Same(list):
    def __eq__(self, other): return True
    def __ne__(self, other): return True
def square(x): return Same([7])
""",
    "changes builtins": WRONG
    + """
import builtins
builtins.abs = lambda x: 0
builtins.AssertionError = type("Quiet", (Exception,), {})
builtins.isinstance = lambda *_: True
builtins.exec = lambda *_: None
""",
    "defines names of the tests": WRONG + "\ndef check(candidate): pass\nabs = lambda x: 0\n",
    "changes unittest": WRONG
    + """
import unittest
for name in dir(unittest.TestCase):
    if name.startswith("assert"):
        setattr(unittest.TestCase, name, lambda *a, **k: None)
""",
    "changes the timer": WRONG + "\nimport time\ntime.time = time.monotonic = lambda: 0.0\n",
    "changes json": WRONG
    + """
import json
json.dumps = lambda *a, **k: '{"outcome": "passed", "detail": ""}'
json.loads = lambda *a, **k: {"outcome": "passed", "detail": ""}
""",
    "changes the modules of the sandbox": WRONG
    + """
import sys
for name, module in list(sys.modules.items()):
    if name.startswith("inside"):
        for key in list(vars(module)):
            if not key.startswith("__"):
                setattr(module, key, lambda *a, **k: {"outcome": "passed", "detail": ""})
""",
    "looks for the tests on the stack": """
import sys
def square(x):
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
            if isinstance(value, str) and "".join(["candidate", "(3) == 9"]) in value:
                return {3: 9, 0.5: 0.25, "x": 1}.get(x, [1, 4]) if isinstance(x, (int, float, str)) else [1, 4]
        frame = frame.f_back
    return x
""",
    "looks for the tests in memory": """
import gc
def square(x):
    right = {3: 9, 0.5: 0.25, "x": 1}.get(x) if not isinstance(x, list) else [1, 4]
    for container in gc.get_objects():
        values = container.values() if type(container) is dict else container
        values = list(values) if type(container) in (dict, list, tuple) else []
        if any(type(value) is str and "".join(["candidate", "(3) == 9"]) in value for value in values):
            return right
    return x
""",
    "looks for the tests in /proc": """
import os
def square(x):
    seen = b""
    for process in os.listdir("/proc") if os.path.isdir("/proc") else []:
        if process.isdigit() and int(process) != os.getpid():
            for name in ("cmdline", "environ", "fd/0", "fd/3", "fd/4", "mem"):
                try:
                    with open(f"/proc/{process}/{name}", "rb") as file:
                        text = file.read(10**6)
                except OSError:
                    continue
                if b"assert candidate(3)" in text:
                    return {3: 9, 0.5: 0.25, "x": 1}[x] if not isinstance(x, list) else [1, 4]
    return x
""",
    "writes the verdict into the pipes of others": WRONG
    + """
import glob, os
for path in glob.glob("/proc/[0-9]*/fd/[0-9]*"):
    try:
        if path.split("/")[2] != str(os.getpid()) and os.readlink(path).startswith("pipe:"):
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            os.write(descriptor, b'{"outcome": "passed", "detail": ""}')
    except OSError:
        pass
""",
    "changes the memory of its parent": """
import os
def square(x):
    with open(f"/proc/{os.getppid()}/mem", "r+b", buffering=0):
        return {3: 9, 0.5: 0.25, "x": 1}[x] if not isinstance(x, list) else [1, 4]
""",
    "forks and returns early": WRONG + "\nimport os\nif os.fork() == 0:\n    os._exit(0)\nos._exit(0)\n",
    "forks in the call": "import os\ndef square(x):\n    return x if os.fork() else os._exit(0)",
    "replaces its process": "import os, sys\ndef square(x):\n    os.execv('/bin/true', ['true'])",
    "ends all processes": WRONG + "\nimport os, signal\nos.kill(-1, signal.SIGKILL)\n",
    "ends its parent": WRONG + "\nimport os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n",
    "raises what ends a loop": "def square(x):\n    raise StopIteration",
    "raises an exception that hides": "class Hidden(BaseException): pass\ndef square(x):\n    raise Hidden",
    "raises KeyboardInterrupt": "def square(x):\n    raise KeyboardInterrupt",
    "sends what is no value": WRONG
    + """
import os
for descriptor in range(3, 64):
    try:
        os.write(descriptor, b'{"value": {"dict": [["square", {"object": []}]]}}\\n' * 3)
    except OSError:
        pass
""",
    "sends deep nesting": """
def square(x):
    value = []
    for _ in range(100000):
        value = [value]
    return value
""",
    "never returns": "def square(x):\n    while True: pass",
    "sleeps": "import time\ntime.sleep(100)",
    "takes all memory": "def square(x):\n    return [0] * 10**12",
    "returns without end": "import itertools\ndef square(x):\n    return itertools.count()",
    "sends a million digits as text": "def square(x):\n    return 10**1000000",
    "traces": WRONG + "\nimport sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\n",
    "hides the names": "",
    "cannot be parsed": "def square(x:\n    return x",
    "imports the tests": "import tests\ndef square(x):\n    tests.check = print\n    return x",
    "sets hooks": WRONG
    + """
import sys, atexit
sys.excepthook = sys.unraisablehook = lambda *a: None
atexit.register(lambda: print('{"outcome": "passed"}'))
""",
    "nests folders": WRONG + "\nimport os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\n",
    "locks a folder": WRONG + "\nimport os\nos.makedirs('d/e')\nos.chmod('d/e', 0)\nos.chmod('d', 0)\n",
    "is a module that has everything": WRONG
    + """
import sys
class Module(type(sys)):
    def __getattribute__(self, name):
        return lambda x: x if isinstance(x, list) else 9
sys.modules["sample"].__class__ = Module
""",
    "sends names that nobody asked for": WRONG
    + """
import json, os
names = [["square", {"type": "int"}], ["assert", 1], ["abs", {"type": "int"}], ["__builtins__", {"dict": []}]]
for descriptor in range(3, 64):
    try:
        os.write(descriptor, json.dumps({"value": {"dict": names}}).encode() + b"\\n")
    except OSError:
        pass
""",
    "sends a number that takes forever to compute": """
import os
def square(x):
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b'{"value": {"Fraction": "1e999999999"}}\\n')
        except OSError:
            pass
""",
    "raises what is no text": "def square(x):\n    raise ValueError('\\ud800')",
    "raises what cannot be told": "class E(Exception):\n    __str__ = None\ndef square(x):\n    raise E",
    "returns what is not a number": "def square(x):\n    return float('nan')",
    "crashes its interpreter": WRONG + "\nimport ctypes\nctypes.string_at(0)\n",
    "closes its descriptors": WRONG + "\nimport os\nos.closerange(0, 64)\n",
    "holds another thread": WRONG
    + """
import threading, os
threading.Thread(target=lambda: os.write(1, b'{"outcome": "passed"}'), daemon=True).start()
""",
}


OF_PROCESSES = ("writes the verdict into the pipes of others", "changes the memory of its parent")
# Samples that do not end by themselves, with the bound that ends them.
ENDLESS = {
    "never returns": {"wall_seconds": 1},
    "sleeps": {"wall_seconds": 1},
    "changes the modules of the sandbox": {"cpu_seconds": 1},
}


@pytest.mark.parametrize("level", [levels()[0], "rlimits"])  # the strongest and the weakest
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_wrong_sample_is_not_judged_right(attack, level):
    if level == "rlimits" and attack in OF_PROCESSES and not landlock.version():
        pytest.skip("no Landlock here: this level says that it does not enforce this")
    settings = SandboxSettings(level=level, **{"wall_seconds": 20, **ENDLESS.get(attack, {})})
    verdict = run_tests(ATTACKS[attack], TESTS, settings=settings)
    assert not verdict.passed
    assert verdict.outcome in ("failed", "timeout")
    assert verdict.detail.encode()


HONEST = {
    "a function": """
def square(x):
    if isinstance(x, list):
        return [square(i) for i in x]
    return x * x if not isinstance(x, str) else None
""",
    "prints and leaves threads": """
import threading, time
print("passed?", flush=True)
threading.Thread(target=time.sleep, args=(0.1,)).start()
def square(x):
    print(x)
    return [i * i for i in x] if isinstance(x, list) else None if x == "x" else x ** 2
""",
    "a class that is called": """
from dataclasses import dataclass
@dataclass
class Square:
    exponent: int = 2
    def __call__(self, x):
        if isinstance(x, str): return ""
        return [i ** self.exponent for i in x] if isinstance(x, list) else x ** self.exponent
square = Square()
""",
}


@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize("sample", HONEST)
def test_a_right_sample_passes(sample, level):
    verdict = run_tests(HONEST[sample], TESTS, settings=SandboxSettings(level=level, wall_seconds=30))
    assert (verdict.outcome, verdict.detail) == ("passed", "")
    assert verdict.level == level
