from dmaxlit.bench.code_texts import code_texts
from dmaxlit.tasks import task
from tests.sandbox.requirement import needs_sandbox

ROWS = [
    {
        "text": f"Add {i}.",
        "code": f"class Unused:\n    pass\ndef add{i}(x):\n    return x + {i}",
        "test_list": [f"assert add{i}(1) == {i + 1}"],
    }
    for i in range(2)
]


@needs_sandbox
def test_references_are_right_and_all_errors_wrong(write_rows):
    examples = task("mbpp_instruct", path=write_rows(ROWS)).examples("test", 2)
    texts = list(code_texts(examples, 1))
    assert {text.check for text in texts if not text.right} == {"another result", "then another's", "success, printed"}
    assert sum(text.right for text in texts) == 1
    assert [text.check for text in texts if examples[1].check(text.text) != text.right] == []
