"""The folder of a report on decoding order: table, JSON and picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmaxlit.errors import UserError
from dmaxlit.evaluation.order_picture import order_picture
from dmaxlit.evaluation.order_report import OrderReport, order_table
from dmaxlit.files import require_replaceable, require_writable, staged, write_json, write_text
from dmaxlit.version import __version__

#: The files of a report.
FILES = ("order.json", "order.png", "table.md")


def check_report_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds anything else than an earlier report, or that too without ``overwrite``.

    Raises:
        UserError: If it does, is a file, or cannot be replaced.
        OSError: If it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output: expected a folder, got the file {str(folder)!r}")
    content = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    others = [name for name in content if name not in FILES]
    if others:
        raise UserError(f"output: expected a folder of reports alone, got {str(folder)!r} with {others[0]!r} in it")
    if content and not overwrite:
        raise UserError(f"output: expected a new folder, or --overwrite true, got {str(folder)!r} with a report")
    require_replaceable(folder, "output")
    require_writable(folder)


def write_report(folder: Path, reports: Sequence[OrderReport], settings: dict[str, Any], overwrite: bool) -> str:
    """Write table, JSON and picture to a folder, all or none, and return the table.

    Args:
        folder: New folder, or one of an earlier report.
        reports: One for each task and decoder.
        settings: What the figures depend on, for the record.
        overwrite: Replace an earlier report.

    Raises:
        UserError: If it cannot be written, or holds something else.
    """
    check_report_folder(folder, overwrite)
    table = order_table(reports)
    with staged(folder, "output") as staging:
        content = {"version": __version__, "settings": settings, "reports": [report.to_dict() for report in reports]}
        write_json(staging / "order.json", content)
        write_text(staging / "table.md", table + "\n")
        order_picture(reports).savefig(staging / "order.png", dpi=120)
    return table
