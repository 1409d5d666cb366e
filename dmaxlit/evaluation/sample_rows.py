"""The row of one answer in the file of samples."""

from collections.abc import Mapping
from typing import Any

import torch

from dmaxlit.engine import Generation
from dmaxlit.engine.trace import RowTrace
from dmaxlit.errors import UserError
from dmaxlit.tasks import Example
from dmaxlit.tasks.json_values import TooDeepError, json_value

_DECIMALS = 4  # of confidences, which are kept in float16


def sample_row(
    index: int, example: Example, answer: Generation, num_prompt_tokens: int, trace: RowTrace | None = None
) -> dict[str, Any]:
    """Judge an answer, and return its row.

    Args:
        index: Index of the prompt in the split.
        example: The prompt with its checker.
        answer: The decoded answer.
        num_prompt_tokens: Tokens of the prompt.
        trace: The record of every forward, if the row is to hold it.

    Raises:
        UserError: If its tests cannot be run; the message names the prompt.
    """
    try:
        verdict = judged(example, answer.text)
    except UserError as error:
        raise UserError(f"prompt {index + 1}: {error}") from error
    row = {
        "index": index,
        **answer.to_dict(),
        "prompt": str(example.prompt),
        "token_ids": answer.token_ids,
        "num_prompt_tokens": num_prompt_tokens,
        **verdict,
    }
    if example.extra:
        row["columns"] = extra_columns(example)
    return row if trace is None else {**row, "trace": trace_to_json(trace)}


def judged(example: Example, text: str) -> dict[str, Any]:
    """Return what a row says of an answer that only the checker knows: reference, extracted answer and verdict.

    Args:
        example: The prompt with its checker.
        text: The answer.
    """
    extracted = None if example.extract is None else example.extract(text)
    return {"answer": example.answer, "extracted": extracted, "correct": bool(example.check(text))}


def extra_columns(example: Example) -> dict[str, Any]:
    """Return whatever else the source says of a prompt, such as an id, as JSON values.

    Raises:
        UserError: If a value is nested too deeply.
    """
    try:
        return {name: json_value(value) for name, value in example.extra.items()}
    except TooDeepError as error:
        raise UserError("has a column that is nested too deeply") from error


def trace_to_json(trace: RowTrace) -> dict[str, Any]:
    """Return the record of an answer's forwards as JSON values; :func:`trace_from_json` reads them."""
    several = {} if trace.forward is None else {"forward": trace.forward.tolist()}
    return several | {
        "start": trace.start.tolist(),
        "ids": trace.ids.tolist(),
        "state": trace.state.tolist(),
        "confidence": [[round(value, _DECIMALS) for value in forward] for forward in trace.confidence.tolist()],
        "num_tokens": trace.num_tokens,
    }


def trace_from_json(value: Mapping[str, Any]) -> RowTrace:
    """Return the record that :func:`trace_to_json` has written."""
    return RowTrace(
        start=torch.tensor(value["start"]),
        ids=torch.tensor(value["ids"], dtype=torch.int32),
        confidence=torch.tensor(value["confidence"], dtype=torch.float16),
        state=torch.tensor(value["state"], dtype=torch.uint8),
        num_tokens=int(value["num_tokens"]),
        forward=torch.tensor(value["forward"]) if "forward" in value else None,
    )
