"""Grading: one answer is extracted from a text by a stated rule, and compared exactly."""

from dmaxlit.tasks.grading.extraction import extract_answer
from dmaxlit.tasks.grading.lenient import LenientNumberGrader
from dmaxlit.tasks.grading.lenient_math import LenientMathGrader
from dmaxlit.tasks.grading.math import MathGrader
from dmaxlit.tasks.grading.numbers import NumberGrader, WordsGrader

__all__ = ["LenientMathGrader", "LenientNumberGrader", "MathGrader", "NumberGrader", "WordsGrader", "extract_answer"]
