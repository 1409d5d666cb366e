"""How a model is decoded when nobody says how: as it was judged."""

from collections.abc import Mapping
from typing import Any

from dmaxlit.backbone.formats.judged import can_hold
from dmaxlit.decoding import DECODERS, Decoder, make_decoder
from dmaxlit.errors import UserError


class DefaultDecoding:
    """The part of a module that knows the decoder which its model was judged with."""

    #: ``decoder`` and ``options``, or None; stored by exports and checkpoints.
    decoding: dict[str, Any] | None = None

    def set_decoding(self, decoder: str | None, /, **options: Any) -> None:
        """Set how the model is decoded by default; exports and checkpoints store it.

        Args:
            decoder: Registered name of a decoder, or None for no default of the model's own.
            options: Its options.

        Raises:
            UserError: For a decoder that is not registered, which a folder cannot name, an unknown option, or one that
                a folder cannot hold.
        """
        if decoder is None:
            self.decoding = None
            return
        make_decoder(decoder, **options)
        if decoder not in DECODERS:
            raise UserError(f"decoder: expected a registered name, which a model folder can hold, got {decoder!r}")
        if not can_hold(decoder, options):
            raise UserError(
                "decoder: expected options of numbers and single lines, which a model folder can hold, "
                f"got {decoder!r} with {options!r:.120}"
            )
        self.decoding = {"decoder": decoder, "options": options}

    def default_decoding(
        self, decoder: str | Decoder | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[str | Decoder, dict[str, Any]]:
        """Return a decoder with its options, or else those that the model was judged with, or else ``spd``.

        Args:
            decoder: A decoder or its name, with which nothing of the model's own is used; None for the default.
            options: Options of the decoder; they replace those of the default, one by one.
        """
        given = dict(options or {})
        if decoder is not None:
            return decoder, given
        stored = self.decoding or {"decoder": "spd"}
        return stored["decoder"], {**stored.get("options", {}), **given}
