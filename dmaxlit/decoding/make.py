"""From a decoder's name and options to the decoder."""

import inspect
from typing import Any

from dmaxlit.decoding.base import DECODERS, Decoder
from dmaxlit.errors import UserError

__all__ = ["make_decoder"]


def make_decoder(decoder: str | type[Decoder] | Decoder, **options: Any) -> Decoder:
    """A decoder by its registered name or class, or one that exists already.

    Args:
        decoder: Registered name, class, or instance.
        options: Options of its constructor; an instance takes none.

    Raises:
        UserError: For an unknown name, an unknown option, or an option out of range.
    """
    if isinstance(decoder, Decoder):
        if options:
            raise UserError(
                f"decoder options: expected none beside a ready {type(decoder).__name__}, got {_names(options)}"
            )
        return decoder
    cls = DECODERS.get(decoder) if isinstance(decoder, str) else decoder
    parameters = inspect.signature(cls).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    unknown = [name for name in options if name not in known]
    if unknown and len(known) == len(parameters):
        name = DECODERS.name_of(cls) or cls.__name__
        raise UserError(f"decoder {name!r}: unknown option {_names(unknown)}; known: {_names(known)}")
    return cls(**options)


def _names(names: Any) -> str:
    return ", ".join(names) or "none"
