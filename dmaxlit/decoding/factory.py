"""Construction of a decoder from its name and options."""

from typing import Any

from dmaxlit.decoding.base import DECODERS, Decoder
from dmaxlit.factory import make_by_name

__all__ = ["make_decoder"]


def make_decoder(decoder: str | type[Decoder] | Decoder, /, **options: Any) -> Decoder:
    """Return a decoder by its registered name, import path or class; a ready decoder is returned unchanged.

    Args:
        decoder: Registered name, import path (``my_file.MyDecoder``), class, or instance.
        options: Options of its constructor; an instance takes none.

    Raises:
        UserError: For an unknown name, something that is no decoder, an unknown option, one that is missing, or one of
            the wrong type or out of range.
    """
    ready: Decoder = make_by_name("decoder", DECODERS, Decoder, decoder, options)
    return ready
