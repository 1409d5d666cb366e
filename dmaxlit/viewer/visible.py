"""The text of tokens with every character that a reader could not see, or that would reorder others, made visible."""

from dmaxlit.errors import is_invisible

_DELETE, _PICTURES = 0x7F, 0x2400


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
    if is_invisible(character):
        return character.encode("unicode_escape").decode()
    return character
