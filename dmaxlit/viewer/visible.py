"""The text of tokens with every character that a reader could not see, or that would reorder others, made visible."""

import unicodedata

_DELETE, _PICTURES = 0x7F, 0x2400
# Directional marks, zero-width characters and the byte order mark. Joiners stay: emoji and Indic scripts need them.
_INVISIBLE = frozenset("\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff")


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
