import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks import BenchmarkTask, Problem, text_column
from dmaxlit.tasks.grading import WordsGrader
from dmaxlit.tasks.gsm8k import Gsm8kTask


class CapitalsTask(BenchmarkTask):
    """A benchmark that somebody has not registered."""

    hub_id = "nobody/capitals"
    hub_splits = {"test": "test"}  # noqa: RUF012
    columns = ("country", "capital")
    fields = ("country",)

    def problem(self, row):
        capital = text_column(row, "capital")
        return Problem({"country": text_column(row, "country")}, capital, WordsGrader(capital))


class FilesTask(CapitalsTask):
    """A benchmark that the hub does not have."""

    hub_id = ""
    hub_splits = {}  # noqa: RUF012


class ShortTask(Gsm8kTask):
    """Another budget."""


def test_a_benchmark_of_ones_own_needs_no_registration(write_rows, tmp_path):
    path = write_rows([{"country": "Peru", "capital": "Lima"}, {"country": "Peru", "capital": "Lima"}])
    template = tmp_path / "mine.yaml"
    template.write_text("prompt: 'What is the capital of {{country}}?'\n")
    capitals = CapitalsTask(path, template=str(template))
    (example,) = capitals.examples("test", 1)
    assert capitals.count("test") == 1
    assert capitals.count("train") == 0
    assert example.prompt == "What is the capital of Peru?"
    assert example.check("The answer is Lima.")
    assert not example.check("Lima")
    with pytest.raises(
        UserError, match=r"^template: expected one of CapitalsTask \(none\), or a .yaml file, got 'dmax'$"
    ):
        CapitalsTask(path)


def test_a_benchmark_of_files_needs_one(write_rows, tmp_path):
    template = tmp_path / "mine.yaml"
    template.write_text("prompt: '{{country}}?'\n")
    path = write_rows([{"country": "Peru", "capital": "Lima"}])
    for files in (FilesTask(template=str(template)), FilesTask(train=path, template=str(template))):
        with pytest.raises(UserError, match=r"^path: expected a file, got none$"):
            files.count("test")
    assert FilesTask(path, template=str(template)).count("test") == 1


def test_a_subclass_has_the_templates_of_its_registered_base():
    assert ShortTask.name() == "gsm8k"
    assert ShortTask(template="zero_shot").prompts.name == "zero_shot"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "expected a column capital, got none"),
        ({"capital": None}, "expected a text in column capital, got None"),
        ({"capital": "  "}, "expected a text in column capital, got '  '"),
    ],
)
def test_a_column_that_cannot_be_used_is_named(row, message):
    with pytest.raises(ValueError, match=message):
        text_column(row, "capital")


def test_a_lone_surrogate_is_refused(write_rows):
    path = write_rows([{"question": "a \ud800", "answer": "#### 1"}])
    with pytest.raises(UserError, match="row 1"):
        Gsm8kTask(path).examples("test", 1)
