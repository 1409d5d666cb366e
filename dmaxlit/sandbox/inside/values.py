"""Plain values as JSON, between the process of the sample and the process of the tests.

Only data of builtin types crosses, and what is decoded has exactly these types, so that every comparison is Python's
own. Any other object stays in the process of the sample, and a number stands for it.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Set
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any, BinaryIO

#: Bytes of one message, and items of an iterator; more is refused.
LONGEST_MESSAGE, LONGEST_ITERATOR = 64 * 2**20, 200_000
_EXACT_IN_JSON = 2**53
_SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "iterator": iter,
}
_TYPES = {cls.__name__: cls for cls in (int, float, str, bool, list, tuple, dict, set, frozenset, bytes, complex)}


class ProtocolError(Exception):
    """The other process sent what is no message, or nothing."""


def encode(value: Any, of_object: Callable[[Any], Any]) -> Any:
    """Return a value as JSON values.

    Args:
        value: The value. Instances of subclasses of builtin types become instances of the builtin type.
        of_object: Encodes what is not plain, or raises.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int(value)
        return number if abs(number) < _EXACT_IN_JSON else {"int": hex(number)}
    if isinstance(value, float):
        return float(value)
    for name, cls in (("list", list), ("tuple", tuple), ("set", set), ("frozenset", frozenset)):
        if isinstance(value, cls):
            return {name: [encode(item, of_object) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": [[encode(key, of_object), encode(item, of_object)] for key, item in value.items()]}
    return _encode_rare(value, of_object)


def _encode_rare(value: Any, of_object: Callable[[Any], Any]) -> Any:
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes" if isinstance(value, bytes) else "bytearray": value.hex()}
    if isinstance(value, range):
        return {"range": [encode(bound, of_object) for bound in (value.start, value.stop, value.step)]}
    if isinstance(value, Decimal):
        return {"Decimal": str(value)}
    if isinstance(value, Fraction):
        return {"Fraction": [encode(int(part), of_object) for part in (value.numerator, value.denominator)]}
    if type(value) in (date, datetime):
        return {type(value).__name__: value.isoformat()}
    if isinstance(value, type) and value in _TYPES.values():
        return {"type": value.__name__}
    if isinstance(value, Set):  # views of a dict
        return {"set": [encode(item, of_object) for item in value]}
    if isinstance(value, Iterator):
        items = list(islice(value, LONGEST_ITERATOR + 1))
        if len(items) > LONGEST_ITERATOR:
            raise ValueError(f"expected an iterator of at most {LONGEST_ITERATOR} items")
        return {"iterator": [encode(item, of_object) for item in items]}
    return of_object(value)


def decode(value: Any, of_object: Callable[[Any], Any]) -> Any:
    """Return the value of JSON values, of builtin types.

    Args:
        value: What :func:`encode` returned; whatever it is, nothing but data comes of it.
        of_object: Returns what stands for an object of the other process.

    Raises:
        ProtocolError: If it is no such value.
    """
    if value is None or isinstance(value, (bool, str, int, float)):
        return value
    if not isinstance(value, dict) or len(value) != 1:
        raise ProtocolError("no value")
    [(kind, content)] = value.items()
    if kind in _SEQUENCES:
        return _SEQUENCES[kind]([decode(item, of_object) for item in content])
    if kind == "dict":
        return {decode(key, of_object): decode(item, of_object) for key, item in content}
    if kind == "object":
        return of_object(content)
    return _decode_rare(kind, content)


def _decode_rare(kind: str, content: Any) -> Any:
    readers: dict[str, Callable[[Any], Any]] = {
        "int": lambda text: int(text, 16),
        "complex": lambda parts: complex(*parts),
        "bytes": bytes.fromhex,
        "bytearray": bytearray.fromhex,
        "range": lambda bounds: range(*(decode(bound, ProtocolError) for bound in bounds)),
        "type": _TYPES.__getitem__,
        "Decimal": Decimal,
        # Not from a text: 1e999999999 would be computed.
        "Fraction": lambda parts: Fraction(*(decode(part, ProtocolError) for part in parts)),
        "date": date.fromisoformat,
        "datetime": datetime.fromisoformat,
    }
    if kind not in readers:
        raise ProtocolError(f"no value of kind {kind!r}")
    return readers[kind](content)


def send(stream: BinaryIO, message: Any) -> None:
    """Write a message, one line of JSON."""
    line = json.dumps(message).encode()
    if len(line) > LONGEST_MESSAGE:
        raise ValueError(f"expected a value of at most {LONGEST_MESSAGE} bytes as JSON, got {len(line)}")
    stream.write(line + b"\n")
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read a message.

    Raises:
        ProtocolError: If the stream has ended, or the line is too long or no JSON object.
    """
    line = stream.readline(LONGEST_MESSAGE + 1)
    if not line.endswith(b"\n"):
        raise ProtocolError("ended" if len(line) <= LONGEST_MESSAGE else "sent too much")
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("sent no JSON") from error
    if not isinstance(message, dict):
        raise ProtocolError("sent no message")
    return message
