"""The decoders of an evaluation, at one or several values of the option that trades accuracy for TPF."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dmaxlit.errors import UserError
from dmaxlit.evaluation.evaluate import DecoderSpec, swept_option
from dmaxlit.evaluation.labels import check_mapping, check_titles
from dmaxlit.option_types import check_option_types

#: The row that every table has: one token per forward.
ONE_TOKEN = "one_token"

_WINDOW = ("window", "admission", "admission_options")
_KEYS = ("name", "options", "label", "sweep", *_WINDOW)


@dataclass(frozen=True)
class DecoderEntry:
    """A decoder with its options: one row of a table, one point of a curve.

    Args:
        title: Its name in tables and files.
        line: Name of the curve that it is a point of.
        threshold: Value of the option that varies along the curve; None for a decoder without one.
        spec: The decoder.
    """

    title: str
    line: str
    threshold: float | None
    spec: DecoderSpec


def decoder_entries(entries: Sequence[Any], baseline: bool = True, source: str = "decoders") -> list[DecoderEntry]:
    """Return the decoders of an evaluation.

    Args:
        entries: Names, or mappings with ``name``, ``options``, ``label``, ``sweep``, ``window``, ``admission`` and
            ``admission_options`` as of :class:`~dmaxlit.evaluation.evaluate.DecoderSpec`. A list as the swept option
            makes a setting of each value.
        baseline: Begin with ``one_token``, unless it is among them.
        source: Where the entries come from, for messages.

    Raises:
        UserError: For no entries, something that is none, an unknown decoder or option, or two settings that are equal
            or whose files would have the same name.
    """
    if not entries:
        raise UserError(f"{source}: expected at least one decoder, got none")
    settings = [
        setting
        for number, entry in enumerate(entries, start=1)
        for setting in _settings(entry, f"{source}, item {number}")
    ]
    if baseline and all(setting.spec.name != ONE_TOKEN for setting in settings):
        settings = [_setting(DecoderSpec(ONE_TOKEN)), *settings]
    check_titles([setting.title for setting in settings], source)
    return settings


def _settings(entry: Any, source: str) -> list[DecoderEntry]:
    if isinstance(entry, str):
        entry = {"name": entry}
    fields = check_mapping(entry, _KEYS, source)
    name, options = fields["name"], dict(fields.get("options") or {})
    label, sweep = fields.get("label"), fields.get("sweep")
    if not isinstance(label, str | None) or not isinstance(sweep, str | None):
        raise UserError(f"{source}: expected texts as label and sweep, got {label if sweep is None else sweep!r}")
    window: Any = {key: fields[key] for key in _WINDOW if key in fields}
    try:
        check_option_types(DecoderSpec, window)
        swept = swept_option(name, sweep)
        values = options.get(swept) if swept is not None else None
        if not isinstance(values, list):
            return [_setting(DecoderSpec(name, options, label, sweep, **window))]
        if not values:
            raise UserError(f"{swept}: expected at least one value, got an empty list")
        specs = [DecoderSpec(name, {**options, str(swept): value}, label, sweep, **window) for value in values]
    except (UserError, TypeError) as error:
        raise UserError(f"{source}: {error}") from error
    return [_setting(spec, one_of_several=True) for spec in specs]


def _setting(spec: DecoderSpec, one_of_several: bool = False) -> DecoderEntry:
    """Return the entry of a decoder; a labelled one of several is told apart by the value of its swept option."""
    swept = spec.swept
    value = spec.options.get(swept) if swept is not None else None
    others = {name: option for name, option in spec.options.items() if name != swept}
    line = spec.label or replace(spec.settings(), decoder_options=others).title  # no decoder need take these alone
    title = f"{spec.label} {swept}={value}" if spec.label is not None and one_of_several else spec.title
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    return DecoderEntry(title, line, number, spec)
