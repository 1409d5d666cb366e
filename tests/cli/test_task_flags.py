import pytest

from dmaxlit.cli.task_flags import options_by_task, take_task_flags
from dmaxlit.errors import UserError


def test_flags_of_tasks_are_taken_out_and_read_as_yaml():
    args = ["--model", "m", "--task.a.n", "3", "--tasks", "a", "--task.b.x=[p, q]", "--task.a.b.c", "yes"]
    args += ["--task.a.path=#x", "--task.a.none=null"]
    rest, flags = take_task_flags(args)
    assert rest == ["--model", "m", "--tasks", "a"]
    assert flags == {"a.n": 3, "b.x": ["p", "q"], "a.b.c": True, "a.path": "#x", "a.none": None}


def test_an_option_belongs_to_the_longest_name_and_may_be_given_in_parts():
    settings = {"a": {"columns": {"answer": "target", "prompt": "text"}, "seed": 1}, "b": {"n": 2}}
    flags = {"a.columns.prompt": "question", "my_file.Mine.limit": 4, "a.new.x": 5}
    assert options_by_task(["a", "b", "my_file", "my_file.Mine"], settings, flags) == {
        "a": {"columns": {"answer": "target", "prompt": "question"}, "seed": 1, "new": {"x": 5}},
        "b": {"n": 2},
        "my_file.Mine": {"limit": 4},
    }
    assert settings["a"]["columns"]["prompt"] == "text"


@pytest.mark.parametrize(
    ("args", "refusal"),
    [
        (["--task.a.n", "["], r"task.a.n: expected a value, got '\[', which is not YAML"),
        (["--task.a.n", ".nan"], "task.a.n: expected a number, got nan"),
        (["--task.a.n", "&x [*x]"], "task.a.n: expected settings, got "),
        (["--task.b.n", "1"], "task.b.n: expected --task.NAME.OPTION of one of the tasks .a., got --task.b.n"),
        (["--task.n", "1"], "task.n: expected --task.NAME.OPTION of one of the tasks .a., got --task.n"),
        (["--task.a.", "1"], "task.a.: expected --task.NAME.OPTION of one of the tasks .a., got --task.a."),
        (["--task.a..n", "1"], "task.a..n: expected --task.NAME.OPTION of one of the tasks .a., got --task.a..n"),
    ],
)
def test_other_flags_are_refused_in_one_line(args, refusal):
    with pytest.raises(UserError, match=refusal) as refused:
        options_by_task(["a"], {}, take_task_flags(args)[1])
    assert "\n" not in str(refused.value)


def test_settings_that_are_no_options_are_refused():
    with pytest.raises(UserError, match=r"task_options\.a: expected options by their names, got a value of type int"):
        options_by_task(["a"], {"a": 3}, {})
