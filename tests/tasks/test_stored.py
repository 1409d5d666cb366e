"""A checkpoint may come from anywhere: the task that it names must not import a module, open a file or run text."""

import sys

import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks import TASKS, ChainTask, Task
from dmaxlit.tasks.stored import StoredTaskError, task_of_checkpoint


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A module on the path that leaves a file when it is imported."""
    (tmp_path / "planted.py").write_text(
        f"open({str(tmp_path / 'it_ran')!r}, 'w')\nfrom dmaxlit.tasks import ChainTask\nclass Task(ChainTask): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "it_ran"
    sys.modules.pop("planted", None)


def test_a_self_contained_task_is_built_with_its_options():
    task = task_of_checkpoint("chain", {"operations": 4, "seed": 3})
    assert isinstance(task, ChainTask)
    assert (task.steps, task.seed) == (4, 3)


@pytest.mark.parametrize("name", ["planted.Task", "dmaxlit.tasks.chain.ChainTask", "os.system", "", "chain "])
def test_nothing_is_imported_by_name(planted, name):
    with pytest.raises(StoredTaskError, match=r"task: expected a registered one \(.*chain, .*\), got '.*--task"):
        task_of_checkpoint(name, {})
    assert not planted.exists()
    assert "planted" not in sys.modules


@pytest.mark.parametrize("name", ["jsonl", "reasoning_gym"])
def test_tasks_that_open_files_or_run_text_are_left_to_the_user(name, monkeypatch):
    monkeypatch.setattr(TASKS.get(name), "__init__", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(StoredTaskError, match=rf"--task {name} --task.OPTION .*path='/etc/passwd'"):
        task_of_checkpoint(name, {"path": "/etc/passwd", "train": None})
    with pytest.raises(StoredTaskError, match="which has no options"):
        task_of_checkpoint(name, {})


def test_a_message_shows_options_short_and_without_control_characters():
    with pytest.raises(StoredTaskError) as refusal:
        task_of_checkpoint("jsonl", {"path": "\x1b[2J" + "a" * 1000})
    assert "\x1b" not in str(refusal.value)
    assert len(str(refusal.value)) < 500


def test_tasks_of_other_packages_say_so_themselves():
    class Quiet(ChainTask):
        self_contained = False

    class Plain(Task):
        def examples(self, split, n):
            return []

        max_new_tokens = 8

    TASKS._classes |= {"quiet": Quiet, "plain": Plain}
    try:
        for name in ("quiet", "plain"):
            with pytest.raises(StoredTaskError):
                task_of_checkpoint(name, {})
        Plain.self_contained = True
        assert isinstance(task_of_checkpoint("plain", {}), Plain)
    finally:
        del TASKS._classes["quiet"], TASKS._classes["plain"]


@pytest.mark.parametrize("options", [{"operations": "many"}, {"operations": 1}, {"pace": 1}, {"difficulty": []}])
def test_options_that_the_task_refuses_are_one_line(options):
    with pytest.raises(UserError, match="task of the checkpoint: ") as refusal:
        task_of_checkpoint("chain", options)
    assert "\n" not in str(refusal.value)
    assert not isinstance(refusal.value, StoredTaskError)
