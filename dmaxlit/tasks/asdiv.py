"""ASDiv: word problems of primary school, whose answers are numbers with units, or words."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

from dmaxlit.errors import UserError, reason_of
from dmaxlit.files import expanded
from dmaxlit.tasks.base import TASKS, Split
from dmaxlit.tasks.benchmark import BenchmarkTask, Grader, Problem, text_column
from dmaxlit.tasks.grading import LenientNumberGrader, NumberGrader, WordsGrader
from dmaxlit.tasks.grading.numbers import number_of
from dmaxlit.tasks.text_files import open_text

__all__ = ["AsdivTask"]

_UNIT = re.compile(r"\s\([^()]*\)")
_LETTER = re.compile(r"[A-Za-z]")


@TASKS.register("asdiv")
class AsdivTask(BenchmarkTask):
    """ASDiv: 2,305 questions of ``EleutherAI/asdiv``, or of the original ``.xml`` file; all are for test.

    The answer is the last of boxed, ``####`` or "answer is". Where the reference is numbers (``9 (apples)``,
    ``5; 15``), it has to hold these numbers and no other, in the same order, whatever the units. Other references (a
    name, a time, a ratio) have to be given in the same words.
    """

    hub_id = "EleutherAI/asdiv"
    hub_splits: ClassVar[Mapping[Split, str]] = {"test": "validation"}
    columns = ("body", "question", "answer")
    fields = ("body", "question")

    def problem(self, row: Mapping[str, Any]) -> Problem:
        """Return body and question, and the reference; see :meth:`BenchmarkTask.problem`."""
        answer = text_column(row, "answer").strip()
        fields = {name: text_column(row, name).strip() for name in self.fields}
        return Problem(fields, answer, LenientNumberGrader(answer) if self.lenient else _grader(answer))

    def read_file(self, file: str, argument: str) -> Iterator[tuple[str, Any]]:
        """Yield the rows of a local file, which may be the original XML; see :meth:`BenchmarkTask.read_file`."""
        return _xml_rows(file, argument) if file.lower().endswith(".xml") else super().read_file(file, argument)


def _grader(answer: str) -> Grader:
    parts = [_UNIT.sub("", part) for part in answer.split(";")]
    numbers = [number_of(part) for part in parts if not _LETTER.search(part)]
    known = tuple(number for number in numbers if number is not None)
    return NumberGrader(known) if len(known) == len(parts) else WordsGrader(answer)


def _xml_rows(file: str, argument: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    with open_text(Path(expanded(file)), argument) as text:
        content = text.read()
    if "<!DOCTYPE" in content or "<!ENTITY" in content:  # entities may expand to any size
        raise UserError(f"{argument}: expected XML without a document type, got {file!r} with one")
    try:
        problems = list(ElementTree.fromstring(content.encode(errors="surrogateescape")).iter("Problem"))
    except ElementTree.ParseError as error:
        raise UserError(f"{argument}: cannot read {file!r} ({reason_of(error)})") from error
    if not problems:
        raise UserError(f"{argument}: expected XML with elements Problem, got none in {file!r}")
    for number, problem in enumerate(problems, start=1):
        yield f"{file}, Problem {number}", {child.tag.lower(): child.text or "" for child in problem}
