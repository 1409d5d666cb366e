"""Values of a row as JSON can express them."""

import base64
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any
from uuid import UUID

#: How many lists and objects of a row may lie in one another. Far fewer than Python can follow: whether a row is read
#: must not depend on how deep the calls are that read it.
MAX_DEPTH = 100


class TooDeepError(ValueError):
    """A value in which more than :data:`MAX_DEPTH` lists and objects lie in one another."""

    def __init__(self) -> None:
        super().__init__("nested too deeply")


def json_value(value: Any, levels: int = MAX_DEPTH) -> Any:
    """Return a value as JSON can express it: that of a JSON file unchanged, that of a Parquet file in its usual form.

    Dates and times are texts of ISO 8601, durations seconds, decimal numbers and UUIDs texts, and bytes texts in
    base64. Numbers that are not finite, and values that have no such form (an image), are null.

    Args:
        value: A value, or mappings and lists of values.
        levels: How many mappings and lists may lie in one another.

    Raises:
        TooDeepError: If more do.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, (Mapping, list, tuple)) and levels == 0:
        raise TooDeepError
    if isinstance(value, Mapping):
        return {str(key): json_value(item, levels - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item, levels - 1) for item in value]
    return _text_or_number(value, levels)


def _text_or_number(value: Any, levels: int) -> Any:
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    return json_value(value.tolist(), levels) if hasattr(value, "tolist") else None  # of NumPy and PyTorch
