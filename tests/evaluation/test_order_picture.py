from dmaxlit.evaluation.order_picture import order_picture
from dmaxlit.evaluation.order_report import OrderReport


def test_the_picture_has_the_points_of_the_table(report):
    figure = order_picture([report])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["AFP", "tau", "tau in block", "mean rank of finalisation", "mean rank of finalisation"]
    afp = figure.axes[0].containers[0].lines[0].get_xydata()
    assert afp[:3].tolist() == [[0, 3.0], [1, 3.0], [2, 3.0]]
    assert figure.axes[3].containers[0].lines[0].get_xydata().tolist() == [[1, 0.5]]
    assert len(order_picture([OrderReport("a", "b", report.rows)] * 2).axes) == 3


def test_labels_are_shown_as_they_are(report):
    names = [("$x^{$", "$"), ("_mine", "spd")]
    figure = order_picture([OrderReport(task, decoder, report.rows) for task, decoder in names])
    figure.canvas.draw()
    (legend,) = figure.legends
    assert [text.get_text().strip() for text in legend.get_texts()] == ["$x^{$, $", "_mine, spd"]
