"""The text of tokens with every character that a reader could not see, or that would reorder others, made visible."""

import unicodedata

_DELETE, _PICTURES = 0x7F, 0x2400
# Directional marks, zero-width characters, the byte order mark, fillers and tags. Joiners and variation selectors stay:
# emoji and Indic scripts need them.
_INVISIBLE = frozenset(
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u3164\ufeff\uffa0"
    + "".join(
        map(chr, [*range(0x2060, 0x2070), *range(0xFFF9, 0xFFFC), *range(0x1D173, 0x1D17B), *range(0xE0000, 0xE0080)])
    )
)


def visible(text: str) -> str:
    r"""Return a text whose control characters are symbols: ``\x1b`` as ``␛``, a line end as ``↵`` before itself.

    Characters without a symbol (directional marks, lone surrogates) are written as escapes.

    Example:
        >>> visible("a\x1b[1m")
        'a␛[1m'
    """
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    code = ord(character)
    if character == "\n":
        return "↵\n"
    if character == "\t":
        return "→\t"
    if code < 0x20:
        return chr(_PICTURES + code)
    if code == _DELETE:
        return "␡"
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _INVISIBLE:
        return character.encode("unicode_escape").decode()
    return character
