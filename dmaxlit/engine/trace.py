"""A record of every forward of every prompt, in memory or in one file."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dmaxlit.data.encoding import Prompt
from dmaxlit.decoding.proposal import propose
from dmaxlit.engine.events import ForwardEvent
from dmaxlit.engine.prompts import shown_prompt
from dmaxlit.engine.row_trace import RowTrace, TokenState
from dmaxlit.errors import UserError, reason_of
from dmaxlit.files import expanded, staged_file
from dmaxlit.viewer import Panel, page, write_page
from dmaxlit.viewer.notebook import display, frame, table

__all__ = ["RowTrace", "TokenState", "Trace"]

_FORMAT = "dmaxlit-trace-1"
_SHOWN_IN_NOTEBOOK = 8  # prompts, of a trace that is the value of a cell; show() shows all
_DTYPES = {"ids": torch.int32, "confidence": torch.float16, "state": torch.uint8}


class Trace:
    """Records of the prompts of one call of ``generate``, by the prompts' indices.

    Pass an empty one to ``generate``. Off by default, because tracing computes all logits and makes each forward wait
    for the device.

    Args:
        rows: The records, by the prompts' indices.
        prompts: Texts of the prompts, by index, as far as they are known.
        texts: Text of each token id, as far as they are known. ``generate`` of a model fills in both.
        label: How it was decoded, for the viewer.
    """

    def __init__(
        self,
        rows: Mapping[int, RowTrace] | None = None,
        prompts: Mapping[int, str] | None = None,
        texts: Mapping[int, str] | None = None,
        label: str = "",
    ) -> None:
        self.rows: dict[int, RowTrace] = dict(rows or {})
        self.prompts: dict[int, str] = dict(prompts or {})
        self.texts: dict[int, str] = dict(texts or {})
        self.label = label
        self._unfinished: dict[int, list[list[tuple[int, Tensor, Tensor, Tensor]]]] = {}
        self._has_new = True  # whether a forward was recorded since a call began

    def __repr__(self) -> str:
        """Return the number of prompts and forwards."""
        forwards = sum(row.num_forwards for row in self.rows.values())
        return f"Trace({len(self.rows)} prompts, {forwards} forwards)"

    def begin(self) -> None:
        """Forget the forwards of responses that a call before has not finished."""
        self._unfinished.clear()
        self._has_new = False

    def record(self, event: ForwardEvent) -> None:
        """Add a forward."""
        assert event.logits is not None, "a trace needs the logits of all positions"
        self._has_new = True
        ids, state = event.positions()
        fields = {"ids": ids, "confidence": propose(event.state, event.logits).confidence, "state": state}
        ids, confidence, state = (tensor.to("cpu", _DTYPES[name]) for name, tensor in fields.items())
        entries = defaultdict(list)
        for row, (index, start) in enumerate(zip(event.prompt_indices, event.block_starts, strict=True)):
            entries[index].append((start, ids[row], confidence[row], state[row]))
        for index, blocks in entries.items():
            self._unfinished.setdefault(index, []).append(sorted(blocks, key=lambda entry: entry[0]))
        for index, sequence in event.finished.items():
            self._keep(index, sequence.num_tokens)

    def stop(self, max_new_tokens: int) -> None:
        """Keep the records of responses that were stopped before their end, with the open blocks as they are.

        Args:
            max_new_tokens: Most tokens of a response.
        """
        for index, forwards in list(self._unfinished.items()):
            (first, _, _, state), (last, ids, _, _) = (
                forwards[0][0],
                max((blocks[-1] for blocks in forwards), key=lambda entry: entry[0]),
            )
            num_positions = last + len(ids) - first - int((state == TokenState.PROMPT).sum())
            self._keep(index, min(num_positions, max_new_tokens))

    def _keep(self, index: int, num_tokens: int) -> None:
        """Make the record of a prompt whose response has that many tokens."""
        forwards = self._unfinished.pop(index)
        starts, *columns = zip(*(entry for blocks in forwards for entry in blocks), strict=True)
        tensors = dict(zip(_DTYPES, map(torch.stack, columns), strict=True))
        widths = torch.tensor([len(blocks) for blocks in forwards])
        forward = None if bool((widths == 1).all()) else torch.arange(len(widths)).repeat_interleave(widths)
        self.rows[index] = RowTrace(torch.tensor(starts), **tensors, num_tokens=num_tokens, forward=forward)

    def add_texts(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Add the text of every token in the records that has none yet."""
        shown = [
            row.ids[(row.state != TokenState.MASKED) & (row.state != TokenState.PROMPT)] for row in self.rows.values()
        ]
        for token in torch.unique(torch.cat(shown)).tolist() if shown else ():
            if token not in self.texts:
                self.texts[token] = str(tokenizer.decode([token]))

    def describe(self, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], label: str) -> None:
        """Keep what a reader needs, if anything was recorded: texts of prompts and tokens, and how they were decoded.

        Args:
            tokenizer: Gives the texts of the tokens.
            prompts: The prompts, in the order of their indices.
            label: How they were decoded.
        """
        if not self._has_new:  # what there is comes from a call before
            return
        self.prompts |= {index: shown_prompt(prompt) for index, prompt in enumerate(prompts)}
        self.add_texts(tokenizer)
        self.label = label

    def panel(self, indices: Iterable[int] | None = None, label: str = "") -> Panel:
        """Return what the viewer shows of this trace; see :func:`dmaxlit.viewer.page`.

        Args:
            indices: Prompts to show. Default: all of them.
            label: Name of the trace. Default: its own.

        Raises:
            UserError: If a prompt has no record, there are none, the texts of the tokens are not known, or a record is
                too large for a browser.
        """
        chosen = sorted(self.rows if indices is None else set(indices))
        if absent := [index for index in chosen if index not in self.rows]:
            known = f"one of {len(self.rows)} from {min(self.rows)} to {max(self.rows)}" if self.rows else "none"
            raise UserError(f"trace: expected the index of a prompt that it has a record of ({known}), got {absent[0]}")
        if not chosen:
            raise UserError("trace: expected a record of at least one prompt, got none")
        recordings = {index: self.rows[index].recording(self.prompts.get(index, "")) for index in chosen}
        shown = {token for recording in recordings.values() for token in torch.unique(recording.ids).tolist()}
        if shown - self.texts.keys() - {-1}:
            raise UserError("tokenizer: expected the tokenizer of a trace that holds no texts of its tokens, got none")
        return Panel(label or self.label or "trace", recordings, self.texts)

    def to_html(
        self,
        path: str | Path | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        indices: Iterable[int] | None = None,
    ) -> str:
        """Return the trace as one self-contained page that shows it forward by forward in a browser.

        Args:
            path: File to write the page to as well.
            tokenizer: Gives the texts of the tokens, if the trace was not made by ``generate`` of a model.
            indices: Prompts to show. Default: all of them.

        Raises:
            UserError: As :meth:`panel`; or if the file cannot be written.
        """
        if tokenizer is not None:
            self.add_texts(tokenizer)
        text = page([self.panel(indices)])
        if path is not None:
            write_page(Path(path), text)
        return text

    def show(self, indices: Iterable[int] | None = None, height: int = 800) -> None:
        """Show the page of :meth:`to_html` in the notebook that is running.

        Args:
            indices: Prompts to show. Default: all of them.
            height: Height in pixels, at least 100.

        Raises:
            UserError: As :meth:`panel`; or if no notebook is running.
        """
        display(frame(self.to_html(indices=indices), height), repr(self))

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the page of the first prompts, or why there is none."""
        try:
            return frame(self.to_html(indices=sorted(self.rows)[:_SHOWN_IN_NOTEBOOK]))
        except UserError as error:
            return table([(repr(self), error)])

    def save(self, path: str | Path) -> None:
        """Write all records to one safetensors file, complete or not at all.

        Raises:
            UserError: If it cannot be written, or records are of different block lengths.
        """
        path = Path(expanded(path))
        order = sorted(self.rows)
        rows = [self.rows[index] for index in order]
        if len(lengths := sorted({row.ids.shape[1] for row in rows})) > 1:
            raise UserError(f"trace: expected records of one block length, got {', '.join(map(str, lengths))}")
        tensors = (
            {name: torch.cat([getattr(row, name) for row in rows]) for name in ("start", *_DTYPES)} if rows else {}
        )
        if any(row.forward is not None for row in rows):
            tensors["forward"] = torch.cat([row.forward_of_entries() for row in rows])
        header: dict[str, Any] = {
            "index": order,
            "forwards": [len(r.start) for r in rows],
            "tokens": [r.num_tokens for r in rows],
        }
        header |= {"prompts": list(self.prompts.items()), "texts": list(self.texts.items()), "label": self.label}
        if path.exists() and not path.is_file():
            raise UserError(f"trace: expected a file to write, got {str(path)!r}, which is none")
        try:
            with staged_file(path) as staging:
                save_file(tensors, staging, metadata={"format": _FORMAT, "rows": json.dumps(header)})
        except (OSError, SafetensorError) as error:
            raise UserError(f"trace: cannot write {str(path)!r} ({error})") from error

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Read a file written by :meth:`save`.

        Raises:
            UserError: If there is no such file, or it is no trace or a damaged one.
        """
        try:
            with safe_open(expanded(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (OSError, SafetensorError) as error:
            raise UserError(f"trace: cannot read {str(path)!r} ({error})") from error
        if metadata.get("format") != _FORMAT:
            raise UserError(f"trace: expected a file that dmaxlit's Trace has written, got {str(path)!r}")
        try:
            header = json.loads(metadata["rows"])
            index, tokens, forwards = (_whole_numbers(name, header[name]) for name in ("index", "tokens", "forwards"))
            split = {name: tensor.split(forwards) for name, tensor in tensors.items()}
            rows = {
                prompt: RowTrace(**{name: chunks[i] for name, chunks in split.items()}, num_tokens=num_tokens)
                for i, (prompt, num_tokens, _) in enumerate(zip(index, tokens, forwards, strict=True))
            }
            for row in rows.values():
                row.check()
            # Older files have no texts.
            prompts, texts = (_texts(name, header.get(name, ())) for name in ("prompts", "texts"))
            return cls(rows, prompts, texts, _text("label", header.get("label", "")))
        except (LookupError, ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"trace: {str(path)!r} is damaged ({reason_of(error)})") from error


def _whole_numbers(name: str, values: Any) -> list[int]:
    """Return a list of the header of a file, all of whose values are whole numbers from 0."""
    for value in values:
        if type(value) is not int or value < 0:
            raise ValueError(f"{name}: expected whole numbers from 0, got {value!r:.80}")
    return list(values)


def _texts(name: str, pairs: Any) -> dict[int, str]:
    """Return texts by their numbers, which are pairs in the header of a file."""
    texts = {number: _text(name, text) for number, text in pairs}
    _whole_numbers(name, texts)
    return texts


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a text, got {value!r:.80}")
    return value
