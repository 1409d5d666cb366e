import pytest

from dmaxlit.errors import UserError
from dmaxlit.evaluation.labels import check_label, check_titles, file_name


@pytest.mark.parametrize("label", ["gsm8k", "my.task-2", "_x", "tau=0.5"])
def test_a_label_may_name_a_folder(label):
    assert check_label(label, "tasks") == label


@pytest.mark.parametrize("label", ["", "..", ".hidden", "a/b", "a b", "x" * 81, 3, None, "a\n", "C:"])
def test_other_labels_are_refused(label):
    with pytest.raises(UserError, match=r"tasks, item 1: expected a label of at most 80 letters"):
        check_label(label, "tasks, item 1")


def test_file_names_are_titles_without_spaces_or_differ_by_a_hash():
    assert file_name("spd tau_dec=0.5") == "spd-tau_dec=0.5"
    names = {file_name(title) for title in ("a/b", "a:b", "a b", "../x", "ab" * 300, "é", "")}
    assert len(names) == 7
    assert all(len(name) <= 90 and not set(name) & set("/:\\ *") and not name.startswith(".") for name in names)


@pytest.mark.parametrize(
    ("titles", "refusal"),
    [
        (["spd 0", "a", "spd-0"], "labels that differ in more than spaces and dashes, got 'spd 0' and 'spd-0'"),
        (["a/b c", "a/b-c"], "labels that differ in more than spaces and dashes, got 'a/b c' and 'a/b-c'"),
        (["a", "b", "a"], "different settings, got 'a' twice"),
    ],
)
def test_titles_whose_files_have_the_same_name_are_refused(titles, refusal):
    with pytest.raises(UserError, match=f"decoders: expected {refusal}"):
        check_titles(titles, "decoders")


def test_other_titles_are_not():
    check_titles(["a b", "a  b", "a_b", "a/b", "a:b", "A b"], "decoders")
