"""Grading: one answer is extracted from a text by a stated rule, and compared exactly."""

from dmaxlit.tasks.grading.extraction import extract_answer
from dmaxlit.tasks.grading.lenient import LenientNumberGrader
from dmaxlit.tasks.grading.numbers import NumberGrader, WordsGrader

__all__ = ["LenientNumberGrader", "NumberGrader", "WordsGrader", "extract_answer"]
