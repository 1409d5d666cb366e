"""Which responses of a corpus are kept, and why the others are dropped."""

import re
from collections.abc import Mapping
from typing import Any

from dmaxlit.data.distill_settings import DistillSettings
from dmaxlit.data.near_duplicates import NearDuplicates
from dmaxlit.randomness import stable_seed


class RowFilter:
    """Decides in the order of the prompts; of duplicates the first one stays.

    Args:
        settings: What to keep.
        is_served: Whether a server answers, which may refuse prompts.

    Attributes:
        reasons: Why responses may be dropped, in the order in which it is looked at.
    """

    def __init__(self, settings: DistillSettings, is_served: bool = False) -> None:
        self._settings = settings
        self._seen: set[int] = set()
        self._near = NearDuplicates(settings.similarity) if settings.duplicates == "drop_near" else None
        active = {
            "refused": is_served,
            "unfinished": settings.keep != "all",
            "incorrect": settings.keep == "correct",
            "empty": True,
            "too_short": settings.min_length is not None,
            "too_long": settings.max_length is not None,
            "duplicate": settings.duplicates != "keep",
            "near_duplicate": self._near is not None,
        }
        self.reasons = [reason for reason, is_active in active.items() if is_active]

    def reason(self, record: Mapping[str, Any]) -> str | None:
        """Return why a response is dropped, or None if it is kept.

        Args:
            record: ``finished``, ``correct``, ``num_tokens``, the ``row`` of the corpus, None for an empty one, and
                ``refused`` if a server has refused the prompt.
        """
        length, settings = record["num_tokens"], self._settings
        drops = {
            "refused": record.get("refused", False),
            "unfinished": not record["finished"],
            "incorrect": not record["correct"],
            "empty": record["row"] is None,
            "too_short": settings.min_length is not None and length < settings.min_length,
            "too_long": settings.max_length is not None and length > settings.max_length,
        }
        for reason in self.reasons:
            if drops.get(reason, False):
                return reason
        return self._repeats(record["row"]) if settings.duplicates != "keep" else None

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row that was kept in an earlier run into account."""
        if self._settings.duplicates != "keep":
            self._repeats(row)

    def _repeats(self, row: Mapping[str, Any]) -> str | None:
        """Return in which way a row repeats an earlier one; one that does not is looked for from now on."""
        text = _text_of(row)
        key = stable_seed(text, row.get("tools"))
        if key in self._seen:
            return "duplicate"
        self._seen.add(key)
        return "near_duplicate" if self._near is not None and self._near.repeats(text) else None


def _text_of(row: Mapping[str, Any]) -> str:
    """Return all text of a row, prompt and response, without differences of case and white space."""
    if "messages" in row:
        parts = [_message_text(**message) for message in row["messages"]]
    else:
        parts = [row["prompt"], row["response"]]
    return "\n".join(re.sub(r"\s+", " ", part).strip().casefold() for part in parts)


def _message_text(role: Any = None, content: Any = None, **others: Any) -> str:
    return f"{role}: {content} {others or ''}"
