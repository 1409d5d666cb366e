import pytest

from dmaxlit.errors import UserError
from dmaxlit.tasks import task

XML = """<?xml version="1.0" encoding="UTF-8" ?>
<Machine-Reading-Corpus-File><ProblemSet>
<Problem ID="1"><Body>Two red and 3 green pears.</Body><Question>How many?</Question>
<Answer>5 (pears)</Answer></Problem>
<Problem ID="2"><Body>A &amp; B are 3 and 4.</Body><Question>How old?</Question>
<Answer>3 (years old); 4 (years old)</Answer></Problem>
<Problem ID="3"><Body>Ann runs 4, Bo 5.</Body><Question>Who won?</Question><Answer>Bo</Answer></Problem>
<Problem ID="4"><Body>Three and six.</Body><Question>What ratio?</Question><Answer>1:2</Answer></Problem>
</ProblemSet></Machine-Reading-Corpus-File>
"""


def written(tmp_path, content):
    path = tmp_path / "asdiv.xml"
    path.write_text(content)
    return str(path)


def test_the_original_xml_is_read(tmp_path):
    one, two, three, four = task("asdiv", path=written(tmp_path, XML)).examples("test", 4)
    assert one.prompt == "Question: Two red and 3 green pears. How many?\nLet's think step by step\nAnswer:"
    assert one.check("#### 5")
    assert one.check("The answer is 5 pears.")
    assert not one.check("#### 6")
    assert "A & B" in two.prompt
    assert two.check("The answer is 3 and 4.")
    assert not two.check("The answer is 3.")
    assert three.check("#### Bo")
    assert not three.check("#### Ann")
    assert four.check(r"\boxed{1:2}")
    assert not four.check(r"\boxed{2:1}")


def test_rows_of_the_hub_have_the_same_columns(write_rows):
    row = {"body": "Six.", "question": "How many?", "solution_type": "Sum", "answer": "6 (x)", "formula": "6=6"}
    (example,) = task("asdiv", path=write_rows([row]), template="zero_shot").examples("test", 1)
    assert example.prompt.startswith("Six.\nHow many?\n")
    assert example.check("#### 6")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<a>", r"path: cannot read .*asdiv.xml' \(no element found"),
        ("<a></a>", r"path: expected XML with elements Problem, got none in .*asdiv.xml'"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", r"path: expected XML without a document type, got .*asdiv.xml'"),
        (
            XML.replace("<Answer>Bo</Answer>", ""),
            r"asdiv.xml, Problem 3: expected a column answer, got body, question$",
        ),
        (XML.replace("Bo<", "<"), r"asdiv.xml, Problem 3: expected a text in column answer, got ''"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        task("asdiv", path=written(tmp_path, content)).examples("test", 1)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"path: cannot read .*none.xml"):
        task("asdiv", path=str(tmp_path / "none.xml")).examples("test", 1)


def test_there_is_nothing_to_train_on(tmp_path):
    with pytest.raises(UserError, match=r"n: expected at most the 0 train prompts of asdiv, got 1"):
        task("asdiv", path=written(tmp_path, XML)).examples("train", 1)
