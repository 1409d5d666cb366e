"""The graders on all items of the real data sets: every reference is accepted, every perturbed one refused."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dmaxlit.bench.answer_texts import AnswerText, answer_texts
from dmaxlit.bench.code_texts import code_texts
from dmaxlit.bench.output_folder import holds_output, write_results
from dmaxlit.bench.sandbox_overhead import sandbox_overhead
from dmaxlit.errors import UserError, check_at_least
from dmaxlit.tasks import BenchmarkTask, Example, task

_SHOWN = 20  # failures of one check in results.json
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class GradedData:
    """A data set whose graders are tested.

    Args:
        task: Name of the task.
        file: The data's name in their folder.
        texts: Yields texts with the verdicts that an example's grader has to give.
        options: Options of the task beside the file.
    """

    task: str
    file: str
    texts: Callable[[Sequence[Example], int], Iterator[AnswerText]] = answer_texts
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def runs_code(self) -> bool:
        """Whether answers run in the sandbox."""
        return self.texts is code_texts


#: The data sets by name.
GRADED: dict[str, GradedData] = {
    "gsm8k": GradedData("gsm8k", "gsm8k_test.jsonl"),
    "math500": GradedData("math500", "math500.jsonl"),
    "asdiv": GradedData("asdiv", "asdiv.xml"),
    "humaneval_instruct": GradedData("humaneval_instruct", "humaneval.jsonl", code_texts),
    "mbpp_instruct": GradedData("mbpp_instruct", "mbpp.jsonl", code_texts),
    "mbpp_instruct, plus": GradedData("mbpp_instruct", "mbpp_plus.jsonl", code_texts, {"plus": True}),
}


@dataclass
class Check:
    """One kind of text on one data set.

    Args:
        data: Name of the data set.
        check: Kind of text.
        right: The verdict that the texts have to get.
        texts: Number of texts.
        failures: Number of texts that got the other verdict.
        seconds: Time of all verdicts.
        examples: The first failures: number of the item and text.
    """

    data: str
    check: str
    right: bool
    texts: int = 0
    failures: int = 0
    seconds: float = 0.0
    examples: list[tuple[int, str]] = field(default_factory=list)

    def add(self, index: int, text: str, failed: bool, seconds: float) -> None:
        """Count the verdict on one text."""
        self.texts += 1
        self.failures += failed
        self.seconds += seconds
        if failed and len(self.examples) < _SHOWN:
            self.examples.append((index, text[-_SHOWN_CHARACTERS:]))


@dataclass
class GradingBench:
    """Grade the reference answers of real data sets, and the same with one error, and print the table.

    References have to be accepted in every form; without a marker, or with another sign, last digit, option or another
    question's answer, they have to be refused.

    Args:
        data: Folder with gsm8k_test.jsonl, math500.jsonl, asdiv.xml, humaneval.jsonl, mbpp.jsonl,
            mbpp_plus.jsonl; those that are there are graded.
        output: Folder for results.json and table.md.
        limit: Number of items of each data set. Default: all.
    """

    data: Path
    output: Path = Path("runs/grading")
    limit: int | None = None

    def __post_init__(self) -> None:
        """Check the settings before anything is graded."""
        self.data, self.output = Path(self.data), Path(self.output)
        check_at_least(1, limit=self.limit)
        if not self.present():
            files = ", ".join(graded.file for graded in GRADED.values())
            raise UserError(f"data: expected a folder with one of {files}, got {str(self.data)!r}")

    def present(self) -> Mapping[str, GradedData]:
        """Return the data sets whose file is there."""
        return {name: graded for name, graded in GRADED.items() if (self.data / graded.file).is_file()}

    @holds_output
    def run(self) -> str:
        """Grade, write ``results.json`` and ``table.md``, and return the table."""
        self.output.mkdir(parents=True, exist_ok=True)
        present = self.present()
        checks = [check for name, graded in present.items() for check in self.grade(name, graded)]
        results: dict[str, Any] = {"limit": self.limit, "checks": [asdict(check) for check in checks]}
        table = format_table(checks)
        if any(graded.runs_code for graded in present.values()):
            # In the same run, so that the verdicts on code are timed on the same machine under the same load.
            overhead = sandbox_overhead()
            results["sandbox"] = asdict(overhead)
            table += f"\n\n{overhead.line()}"
        write_results(self.output, results, table)
        return table

    def grade(self, name: str, graded: GradedData) -> list[Check]:
        """Grade the texts of one data set, and return the checks in the order of their first text."""
        source = task(graded.task, path=str(self.data / graded.file), **graded.options)
        assert isinstance(source, BenchmarkTask), "the others have no such file"
        total = source.count("test")
        examples = source.examples("test", min(self.limit or total, total))
        checks: dict[str, Check] = {}
        for index in tqdm(range(len(examples)), desc=name, unit="item", disable=None):
            for item in graded.texts(examples, index):
                check = checks.setdefault(item.check, Check(name, item.check, item.right))
                begin = time.perf_counter()
                verdict = examples[index].check(item.text)
                check.add(index, item.text, verdict != item.right, time.perf_counter() - begin)
        return list(checks.values())


def format_table(checks: Sequence[Check]) -> str:
    """Format checks as a Markdown table."""
    lines = ["| data | text | has to be | texts | otherwise | ms per text |", "|---|---|---|---|---|---|"]
    for check in checks:
        verdict = "right" if check.right else "wrong"
        time_per_text = 1000 * check.seconds / max(check.texts, 1)
        lines.append(
            f"| {check.data} | {check.check} | {verdict} | {check.texts} | {check.failures} | {time_per_text:.2f} |"
        )
    return "\n".join(lines)
