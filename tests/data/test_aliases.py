"""Names of 0.1 that moved from dmaxlit.data to dmaxlit.tasks."""

import pytest

import dmaxlit.data
import dmaxlit.tasks


@pytest.mark.parametrize("name", ["TASKS", "Example", "Task", "task"])
def test_a_moved_name_is_the_same_object_with_a_warning(name):
    with pytest.warns(DeprecationWarning, match=f"dmaxlit.data.{name} is now dmaxlit.tasks.{name}"):
        moved = getattr(dmaxlit.data, name)
    assert moved is getattr(dmaxlit.tasks, name)


def test_the_old_package_of_tasks_is_the_new_one_with_a_warning():
    with pytest.warns(DeprecationWarning, match="dmaxlit.data.tasks is now dmaxlit.tasks"):
        assert dmaxlit.data.tasks is dmaxlit.tasks


def test_other_names_do_not_exist():
    with pytest.raises(AttributeError, match=r"module 'dmaxlit.data' has no attribute 'nothing'"):
        _ = dmaxlit.data.nothing
