import sys

import pytest

from dmaxlit.errors import UserError
from dmaxlit.evaluation.task_entries import task_entries
from dmaxlit.tasks import TASKS, Task


class Asking(Task):
    def __init__(self, template: str = "plain", shots: int = 0) -> None:
        if not isinstance(shots, int):
            raise TypeError("shots must be a number")
        self.template, self.shots = template, shots

    max_new_tokens = 4

    def examples(self, split, n):
        return []


@pytest.fixture(autouse=True)
def asking(monkeypatch):
    monkeypatch.setitem(TASKS._classes, "asking", Asking)


def test_tasks_by_name_have_their_own_options():
    chain, asking = task_entries(["chain", "asking"], {"chain": {"operations": 3}, "asking": {"shots": 2}})
    assert (chain.label, chain.name, chain.task.operations, chain.template) == ("chain", "chain", 3, None)
    assert (asking.label, asking.task.shots, asking.template) == ("asking", 2, "plain")


def test_each_of_several_templates_is_a_task():
    entry = {"name": "asking", "options": {"template": ["plain", "my/other.yaml"], "shots": 1}, "label": "a"}
    entries = task_entries([entry, "chain"])
    assert [entry.label for entry in entries] == ["a-plain", "a-other", "chain"]
    assert [entry.template for entry in entries[:2]] == ["plain", "my/other.yaml"]
    assert [entry.task.shots for entry in entries[:2]] == [1, 1]


def test_options_by_label_prevail_over_those_by_name_and_in_the_list():
    entries = [
        {"name": "chain", "label": "short", "options": {"operations": 3, "seed": 1}},
        {"name": "chain", "label": "long", "options": {"operations": 9}},
    ]
    short, long = task_entries(entries, {"chain": {"operations": 5, "seed": 2}, "long": {"operations": 7}})
    assert (short.task.operations, short.task.seed) == (5, 2)
    assert (long.task.operations, long.task.seed) == (7, 2)


def test_a_task_of_one_s_own_is_labelled_by_its_class(tmp_path, monkeypatch):
    (tmp_path / "own_task_of_mine.py").write_text("from dmaxlit.tasks import ChainTask\nclass Mine(ChainTask): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (entry,) = task_entries(["own_task_of_mine.Mine"], {"own_task_of_mine.Mine": {"operations": 4}})
    assert (entry.label, entry.name, entry.task.operations) == ("Mine", "own_task_of_mine.Mine", 4)
    sys.modules.pop("own_task_of_mine")


@pytest.mark.parametrize(
    ("entries", "options", "refusal"),
    [
        ([], {}, "tasks: expected at least one task, got none"),
        (["chan"], {}, "unknown task 'chan'; known: .*chain"),
        (["chain", "chain"], {}, "tasks: expected a different label for each task, got 'chain' twice"),
        (["chain"], {"chan": {}}, "task.chan: expected options of one of the tasks chain, got those of 'chan'"),
        (["chain"], {"chain": {"size": 1}}, "task 'chain': unknown option size"),
        ([3], {}, "tasks, item 1: expected a name, or a mapping with name, options, label, got a value of type int"),
        ([{"nam": "chain"}], {}, "tasks, item 1: expected keys of name, options, label, got 'nam'"),
        ([{"name": None}], {}, "tasks, item 1: expected a name, got None"),
        (["chain", {"name": "chain", "options": 3}], {}, "tasks, item 2: expected options as a mapping, got a value"),
        ([{"name": "chain", "label": "a/b"}], {}, "tasks, item 1: expected a label of .* got 'a/b'"),
        ([{"name": "chain", "label": "Table.md"}], {}, "tasks, item 1: expected another label than the names of"),
        (["asking"], {"asking": {"template": []}}, "task.asking.template: expected names or files, got a value of"),
        (["asking"], {"asking": {"template": ["x", "a/x.yaml"]}}, "expected a different label .* 'asking-x' twice"),
        (["asking"], {"asking": {"shots": "many"}}, "shots: expected int, got 'many'"),
    ],
)
def test_bad_tasks_are_refused_in_one_line(entries, options, refusal):
    with pytest.raises(UserError, match=refusal) as refused:
        task_entries(entries, options)
    assert "\n" not in str(refused.value)
