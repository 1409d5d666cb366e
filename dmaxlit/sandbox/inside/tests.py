"""The process of the tests: run the tests of an answer, whose functions are called in the process of the sample.

No line of the sample runs here. What it returns arrives as data of builtin types, so that comparisons, ``assert``
and the clock are out of its reach, and the verdict is written to a pipe that its process does not have.
"""

import builtins
import sys
from collections.abc import Iterator
from types import CodeType, ModuleType
from typing import Any, BinaryIO

from .values import ProtocolError, decode, encode, receive, send

# In tests these would end a loop or a generator as if it were complete.
_ENDS_OF_LOOPS = (StopIteration, StopAsyncIteration)
_LONGEST_REASON = 500  # characters


class _SampleLost(BaseException):
    """The sample's process cannot be asked any more. No ``except Exception`` of tests holds it back."""


class _SampleObject:
    """What stands in the tests for an object of the sample: its attributes and calls are answered over there."""

    __slots__ = ("_number", "_sample")

    def __init__(self, sample: "_Sample", number: int) -> None:
        object.__setattr__(self, "_sample", sample)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._sample.ask(self._number, "call", arguments, keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python itself looks for is not the sample's to say
            raise AttributeError(name)
        return self._sample.ask(self._number, "get", (name,), {})

    def __setattr__(self, name: str, value: Any) -> None:
        self._sample.ask(self._number, "set", (name, value), {})


class _Sample:
    """The process of the sample, as the tests know it."""

    def __init__(self, requests: BinaryIO, replies: BinaryIO) -> None:
        self._requests, self._replies = requests, replies
        self._objects: dict[int, _SampleObject] = {}

    def load(self, code: str, names: list[str]) -> dict[str, Any]:
        """Run the code, and return what it defined of ``names``."""
        return dict(self._exchange({"code": code, "names": names}))

    def ask(self, number: int, do: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Return what a call or an attribute of an object of the sample gives."""
        request = {"object": number, "do": do, "arguments": encode(arguments, _encoded)}
        return self._exchange({**request, "keywords": encode(keywords, _encoded)})

    def _exchange(self, request: dict[str, Any]) -> Any:
        try:
            send(self._requests, request)
            reply = receive(self._replies)
            if "raised" in reply:
                error = _exception(reply)
            else:
                return decode(reply["value"], self._object)
        except (ProtocolError, OSError) as lost:
            raise _SampleLost(f"the sample's process {lost if isinstance(lost, ProtocolError) else 'ended'}") from lost
        except (
            MemoryError,
            RecursionError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
        ) as bad:
            raise _SampleLost(f"the sample's process sent no value ({type(bad).__name__})") from bad
        raise error

    def _object(self, number: Any) -> _SampleObject:
        if type(number) is not int:
            raise ProtocolError("sent no object")
        return self._objects.setdefault(number, _SampleObject(self, number))


def _encoded(value: Any) -> Any:
    if type(value) is _SampleObject:
        return {"object": value._number}
    raise TypeError(f"expected plain data in a call of the sample, got a value of type {type(value).__name__}")


def _exception(reply: dict[str, Any]) -> BaseException:
    """Return the exception of the nearest builtin class; RuntimeError for one that would end more than the call."""
    names, text = [str(name) for name in reply["raised"]], str(reply["text"])
    classes = [cls for name in names if isinstance(cls := getattr(builtins, name, None), type)]
    nearest = next((cls for cls in classes if issubclass(cls, BaseException)), RuntimeError)
    if not issubclass(nearest, Exception) or issubclass(nearest, _ENDS_OF_LOOPS):
        return RuntimeError(f"{names[0]}: {text}")
    try:
        return nearest(text)
    except TypeError:  # UnicodeDecodeError has five arguments
        return RuntimeError(f"{names[0]}: {text}")


def verdicts_of(job: dict[str, Any], requests: BinaryIO, replies: BinaryIO) -> Iterator[dict[str, str]]:
    """Run the tests of a job, and yield the verdict.

    Before the sample is asked anything, what holds if this process ends without another verdict is yielded: from there
    on, the sample may be why.

    Args:
        job: ``code`` of the sample; ``names`` that the tests use of it; ``preamble``, run before they are bound; and
            ``tests``.
        requests: To the process of the sample.
        replies: From it.

    Yields:
        ``outcome``, one of ``passed``, ``failed``, and ``error`` for tests that cannot be run; and ``detail``.
    """
    module = ModuleType("tests")
    sys.modules["tests"] = module
    try:
        preamble, tests = (compile(job[part], f"<{part}>", "exec") for part in ("preamble", "tests"))
        exec(preamble, module.__dict__)
    except BaseException as error:
        yield {"outcome": "error", "detail": f"the tests cannot be run: {_described(error)}"}
        return
    yield {"outcome": "failed", "detail": "the tests' process ended without a verdict"}
    yield _outcome(job, tests, module, _Sample(requests, replies))


def _outcome(job: dict[str, Any], tests: CodeType, module: ModuleType, sample: _Sample) -> dict[str, str]:
    try:
        defined = sample.load(job["code"], job["names"])
        missing = [name for name in job["names"] if name not in defined]
        if missing:
            return {"outcome": "failed", "detail": f"the sample does not define {missing[0]}"}
        module.__dict__.update((name, defined[name]) for name in job["names"])
        exec(tests, module.__dict__)
    except BaseException as error:
        return {"outcome": "failed", "detail": _described(error)}
    return {"outcome": "passed", "detail": ""}


def _described(error: BaseException) -> str:
    frame, line = error.__traceback__, 0
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == "<tests>":
            line = frame.tb_lineno
        frame = frame.tb_next
    where = f" (line {line} of the tests)" if line else ""
    name = "" if isinstance(error, _SampleLost) else f"{type(error).__name__}: "
    text = " ".join(str(error)[:_LONGEST_REASON].split())
    return f"{name}{text}".removesuffix(": ") + where
