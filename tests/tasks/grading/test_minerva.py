import pytest

from dmaxlit.tasks.grading.minerva import minerva_form


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        ("x = 5", "5"),
        ("a dollar", "dollar"),
        (r"18\ \text{dollars}", "18"),
        ("1,234", "1234"),
        ("(1,2)", "(1,2)"),
        (r"\frac34", r"\frac{3}{4}"),
        (r"\frac{3}{4}", r"\frac{3}{4}"),
        (r"\sqrt2", r"\sqrt{2}"),
        (r"\text{east}", "east"),
        (r"\mbox{east}", "east"),
        ("so $7$ it is", "7"),
        (r"90^\circ", "90"),
        (r"10\text{ cm}^2", "10"),
        (r"\{1,2\}", "{1,2}"),
        (r"x\text{ and }y", "x,y"),
        (r"\boxed{5}", "5"),
    ],
)
def test_units_words_and_notation_are_left_out(answer, form):
    assert minerva_form(answer) == form
