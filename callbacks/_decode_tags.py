"""The tags of the figures that ``SPDValidation`` logs, which other callbacks may monitor."""

from collections.abc import Mapping, Sequence

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from dmaxlit.errors import UserError
from dmaxlit.evaluation.results import aligned_table

#: The figures of each decoder, and what they are.
FIGURES = {
    "accuracy": "share of right answers",
    "tpf": "tokens per forward, EOS included",
    "tps": "tokens per second of one device",
    "finished": "share of answers that end with EOS or a stop text",
    "hit_step_limit": "share of blocks closed before they had converged",
}
#: The figure of all decoders together.
BEST_TPF = "best_tpf"


def decode_tags(family: str, labels: Sequence[str], has_best: bool) -> list[str]:
    """Return the tags of all figures.

    Args:
        family: ``decode`` in validation, ``test`` in a test.
        labels: Labels of the decoders.
        has_best: Whether the highest TPF of an accurate decoder is logged.
    """
    tags = [f"{family}/{label}/{figure}" for label in labels for figure in FIGURES]
    return [*tags, f"{family}/{BEST_TPF}"] if has_best else tags


def decoders_text(family: str, titles: Mapping[str, str], min_accuracy: float | None) -> str:
    """Return Markdown that says which decoder the figures of a label are of, and what they are.

    Args:
        family: ``decode`` in validation, ``test`` in a test.
        titles: Each decoder with its options, by its label.
        min_accuracy: Accuracy that ``best_tpf`` asks for; None: it is not logged.
    """
    rows = [[f"{family}/{label}/...", title] for label, title in titles.items()]
    legend = [f"{name}: {meaning}" for name, meaning in FIGURES.items()]
    if min_accuracy is not None:
        legend.append(f"{BEST_TPF}: highest tpf of a decoder with an accuracy of at least {min_accuracy:g}, 0 if none")
    return f"{aligned_table(['figures', 'decoder'], rows, num_left=2)}\n{' · '.join(legend)}"


def refuse_unknown_monitors(trainer: L.Trainer, labels: Sequence[str], has_best: bool) -> None:
    """Refuse callbacks that monitor a figure of decoding that is not logged, before the first validation comes to it.

    Tags of other callbacks under ``decode/`` pass: neither label nor figure is one of ours.

    Args:
        trainer: The trainer.
        labels: Labels of the decoders.
        has_best: Whether the highest TPF of an accurate decoder is logged.

    Raises:
        UserError: For the first such callback.
    """
    known = decode_tags("decode", labels, has_best)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        monitor = getattr(callback, "monitor", None)
        family, _, rest = str(monitor).partition("/")
        label, _, figure = rest.rpartition("/")
        is_ours = family == "decode" and (label in labels or figure in (*FIGURES, BEST_TPF))
        if is_ours and monitor not in known:
            advice = f"; {BEST_TPF} needs min_accuracy of SPDValidation" if rest == BEST_TPF else ""
            raise UserError(f"{_setting(callback)}: expected one of {', '.join(known)}, got {monitor!r}{advice}")


def _setting(callback: L.Callback) -> str:
    """Return the user's name of the setting."""
    is_of_run = isinstance(callback, Checkpoint) and not isinstance(callback, ModelCheckpoint)
    return "checkpoint.monitor" if is_of_run else f"trainer.callbacks.{type(callback).__name__}.monitor"
