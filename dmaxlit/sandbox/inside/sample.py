"""The process of the sample: run the code of an answer, then answer calls of its functions."""

import sys
from types import ModuleType
from typing import Any, BinaryIO

from .values import ProtocolError, decode, encode, receive, send

_LONGEST_REASON = 500  # characters


class _Objects:
    """The objects of the sample that are no plain data, by the numbers that stand for them in the tests."""

    def __init__(self) -> None:
        self._objects: list[Any] = []

    def encoded(self, value: Any) -> dict[str, int]:
        for number, known in enumerate(self._objects):
            if known is value:
                return {"object": number}
        self._objects.append(value)
        return {"object": len(self._objects) - 1}

    def get(self, number: int) -> Any:
        return self._objects[number]


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Run the code of the first request; then answer calls until the requests end."""
    objects = _Objects()
    module = ModuleType("sample")
    sys.modules["sample"] = module
    while True:
        try:
            request = receive(requests)
        except ProtocolError:
            return
        try:
            reply = {"value": _answer(request, module, objects)}
        except BaseException as error:  # SystemExit too: it ends a call, not the tests
            reply = _raised(error)
        try:
            send(replies, reply)
        except ValueError as error:
            send(replies, _raised(error))


def _answer(request: dict[str, Any], module: ModuleType, objects: _Objects) -> Any:
    if "code" in request:
        exec(compile(request["code"], "<sample>", "exec"), module.__dict__)
        names = {name: getattr(module, name) for name in request["names"] if hasattr(module, name)}
        return encode(names, objects.encoded)
    target = objects.get(request["object"])
    arguments = decode(request["arguments"], objects.get)
    if request["do"] == "call":
        value = target(*arguments, **decode(request["keywords"], objects.get))
    elif request["do"] == "get":
        value = getattr(target, *arguments)
    else:
        setattr(target, *arguments)
        value = None
    return encode(value, objects.encoded)


def _raised(error: BaseException) -> dict[str, Any]:
    try:
        text = str(error)[:_LONGEST_REASON]
    except Exception:
        text = ""
    names = [cls.__name__ for cls in type(error).__mro__]
    return {"raised": names, "text": text}
