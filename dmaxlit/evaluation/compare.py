"""Compare two evaluations, setting by setting, over the same prompts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dmaxlit.errors import UserError, reason_of
from dmaxlit.evaluation.cell_result import ends_with_eos
from dmaxlit.evaluation.paired import PairedDifference, PairedRatio, paired_difference, paired_ratio
from dmaxlit.evaluation.record import read_record
from dmaxlit.evaluation.results import aligned_table
from dmaxlit.evaluation.sample_files import read_rows, read_settings
from dmaxlit.viewer.notebook import grid

Rows = Sequence[Mapping[str, Any]]

_HEADER = ("", "accuracy A %", "accuracy B %", "B - A [95%]", "McNemar p", "TPF A", "TPF B", "TPF B / A [95%]")


@dataclass(frozen=True)
class Comparison:
    """One setting of two evaluations.

    Args:
        task: The task's label.
        title: The setting's title, or both.
        num_prompts: Prompts that both have answered.
        accuracy: Accuracies of A and B.
        tpf: TPF of A and B, EOS included.
        difference: Difference of the accuracies, paired.
        ratio: Ratio of the TPF, paired.
        ratio_without_eos: The same by the rule ``without_eos``.
    """

    task: str
    title: str
    num_prompts: int
    accuracy: tuple[float, float]
    tpf: tuple[float, float]
    difference: PairedDifference
    ratio: PairedRatio
    ratio_without_eos: PairedRatio

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the row of the table."""
        return grid(_HEADER, [_row(self)], caption=f"{self.task}: {self.num_prompts} prompts")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, nan as None."""
        values = asdict(self)
        for name in ("ratio", "ratio_without_eos"):
            values[name] = {key: None if math.isnan(value) else value for key, value in values[name].items()}
        return values


@dataclass(frozen=True)
class _Samples:
    """A file of samples with what tells its prompts."""

    path: Path
    task: str
    title: str
    prompts: str

    def rows(self) -> Rows:
        try:
            return read_rows(self.path)
        except (OSError, ValueError) as error:
            raise UserError(f"compare: cannot read {str(self.path)!r} ({reason_of(error)})") from error


def compare_runs(a: Path, b: Path) -> list[Comparison]:
    """Compare the settings that two evaluations have in common, or two files of samples.

    Args:
        a: Folder of a complete evaluation, or a file of samples in one.
        b: The other one, of the same kind.

    Raises:
        UserError: If one is neither, they have no setting in common, or they have answered other prompts.
    """
    if a.is_file() or b.is_file():
        first, second = _samples_of_file(a), _samples_of_file(b)
        title = first.title if first.title == second.title else f"{first.title} / {second.title}"
        return [_compare(first, second, title)]
    settings_a, settings_b = _samples_of_run(a), _samples_of_run(b)
    common = [key for key in settings_a if key in settings_b]
    if not common:
        names = (", ".join(f"{task} {title}" for task, title in settings) for settings in (settings_a, settings_b))
        raise UserError(f"compare: expected a task and setting in common, got {' and '.join(names)}")
    return [_compare(settings_a[key], settings_b[key], key[1]) for key in common]


def comparison_table(comparisons: Sequence[Comparison]) -> str:
    """Format comparisons as one Markdown table for each task."""
    tasks = dict.fromkeys(comparison.task for comparison in comparisons)
    return "\n".join(_task_table([c for c in comparisons if c.task == task]) for task in tasks)


def _task_table(comparisons: Sequence[Comparison]) -> str:
    rows = [_row(comparison) for comparison in comparisons]
    first = comparisons[0]
    return f"## {first.task}\n\n{first.num_prompts} prompts\n\n{aligned_table(_HEADER, rows)}"


def _row(comparison: Comparison) -> list[str]:
    difference, ratio = comparison.difference, comparison.ratio
    return [
        comparison.title,
        *(f"{100 * value:.1f}" for value in comparison.accuracy),
        f"{100 * difference.difference:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]",
        f"{difference.p_value:.2g}",
        *(f"{value:.2f}" for value in comparison.tpf),
        f"{ratio.ratio:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
    ]


def _samples_of_run(folder: Path) -> dict[tuple[str, str], _Samples]:
    record = read_record(folder, "compare")
    try:
        return {
            (result["task"], result["title"]): _Samples(
                folder / result["samples"], result["task"], result["title"], record["tasks"][result["task"]]["prompts"]
            )
            for result in record["results"]
        }
    except (KeyError, TypeError) as error:
        raise UserError(
            f"compare: expected the record of an evaluation, got {str(folder)!r} without {error}"
        ) from error


def _samples_of_file(path: Path) -> _Samples:
    if not path.is_file():
        raise UserError(f"compare: expected two folders or two files of samples, got {str(path)!r}, which is no file")
    settings = read_settings(path)
    names = ("task", "title", "prompts")
    if missing := [name for name in names if not isinstance(settings.get(name), str)]:
        raise UserError(f"compare: expected a file of samples of an evaluation, got {str(path)!r} without {missing[0]}")
    return _Samples(path, *(settings[name] for name in names))


def _compare(a: _Samples, b: _Samples, title: str) -> Comparison:
    rows_a, rows_b = a.rows(), b.rows()
    if a.prompts != b.prompts or len(rows_a) != len(rows_b) or not rows_a:
        raise UserError(
            f"compare: expected the same prompts, got {len(rows_a)} of {a.task!r} in {str(a.path)!r} and {len(rows_b)} "
            f"others in {str(b.path)!r}"
        )
    try:
        return _paired(a.task, title, rows_a, rows_b)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"compare: expected rows of an evaluation, got others ({reason_of(error)})") from error


def _paired(task: str, title: str, rows_a: Rows, rows_b: Rows) -> Comparison:
    right_a, right_b = ([bool(row["correct"]) for row in rows] for rows in (rows_a, rows_b))
    counts_a, counts_b = _counts(rows_a), _counts(rows_b)
    return Comparison(
        task=task,
        title=title,
        num_prompts=len(rows_a),
        accuracy=(sum(right_a) / len(right_a), sum(right_b) / len(right_b)),
        tpf=(sum(counts_a[0]) / sum(counts_a[1]), sum(counts_b[0]) / sum(counts_b[1])),
        difference=paired_difference([right_a], [right_b]),
        ratio=paired_ratio(counts_a, counts_b),
        ratio_without_eos=paired_ratio(_without_eos(rows_a), _without_eos(rows_b)),
    )


def _counts(rows: Rows) -> tuple[list[int], list[int]]:
    """Return the tokens, EOS included, and the forwards of each answer."""
    return [row["num_tokens"] for row in rows], [row["num_forwards"] for row in rows]


def _without_eos(rows: Rows) -> tuple[list[int], list[int]]:
    tokens, forwards = _counts(rows)
    return [n - eos for n, eos in zip(tokens, ends_with_eos(rows).tolist(), strict=True)], forwards
