import csv
import json

from dmaxlit.evaluation.curve_figure import PICTURES
from dmaxlit.evaluation.report import aup_of, best_accuracy, by_task, curves_of, write_curve
from tests.evaluation.test_cell_result import make_cell


def test_settings_of_one_line_are_points_of_one_curve():
    cells = [make_cell("spd", 0.5, 0), make_cell("one_token", None, 1), make_cell("spd", 0.0, 2)]
    curves = curves_of(cells)
    assert {line: [point.threshold for point in points] for line, points in curves.items()} == {
        "spd": [0.5, 0.0],
        "one_token": [None],
    }
    assert curves["spd"][1].result is cells[2].result
    assert best_accuracy(cells) == max(100 * cell.result.accuracy for cell in cells)
    assert list(by_task([make_cell("spd", 0.5, 0, task="b"), *cells])) == ["b", "chain"]


def test_a_curve_is_written_as_numbers_and_as_a_picture(tmp_path):
    cells = [make_cell("spd", 0.5, 0), make_cell("spd", 0.0, 2), make_cell("one_token", None, 1)]
    write_curve(tmp_path, "chain", cells, 400)
    with (tmp_path / "curve.csv").open(newline="") as file:
        points = list(csv.DictReader(file))
    assert [point["title"] for point in points] == ["spd 0.5", "spd 0.0", "one_token None"]
    for point, cell in zip(points, cells, strict=True):
        assert float(point["accuracy"]) == cell.result.accuracy
        assert {rule: float(point[f"tpf_{rule}"]) for rule in cell.tpf} == cell.tpf
        assert float(point["aup"]) == aup_of(cells)[cell.line]
        assert json.loads(point["options"]) == cell.result.options
    assert points[2]["threshold"] == ""
    for suffix in PICTURES:
        assert (tmp_path / f"curve{suffix}").stat().st_size > 5000
    assert f"chain, {cells[0].result.num_examples} prompts, step 400" in (tmp_path / "curve.svg").read_text()
    data = json.loads((tmp_path / "curve.json").read_text())
    assert (data["task"], data["steps"], data["y_max"]) == ("chain", 400, best_accuracy(cells))
    assert [(point["title"], point["threshold"]) for point in data["points"]][1:] == [
        ("spd 0.0", 0.0),
        ("one_token None", None),
    ]
