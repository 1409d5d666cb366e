"""``dmaxlit trace``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dmaxlit.cli.arguments import call, make_parser
from dmaxlit.errors import UserError, printable

if TYPE_CHECKING:
    from dmaxlit.engine import Trace


def run(command: str, args: list[str]) -> None:
    """Run the command."""
    parser = make_parser(command, trace, skip=["traces", "rows"])
    parser.add_argument(
        "traces",
        nargs="+",
        metavar="TRACE",
        help="File that generate --trace_file wrote; several are shown side by side.",
    )
    parser.add_argument("--rows", nargs="+", type=int, help="Indices of the prompts to show, from 0. Default: all.")
    call(parser, trace, args)


def trace(traces: list[str], output: str, rows: list[int] | None = None, tokenizer: str | None = None) -> None:
    """Write traces as one HTML page, which shows them forward by forward in a browser and needs no network.

    Several traces are side by side and step together, for instance of the same prompts before and after training, or
    with two decoders.

    Args:
        traces: Files that generate --trace_file wrote; several are shown side by side.
        output: HTML file to write; its name ends in .html.
        rows: Indices of the prompts to show, from 0. Default: all.
        tokenizer: Task name, folder or hub id of the tokenizer of traces that hold no texts of their tokens, as those
            written by earlier versions.
    """
    from dmaxlit.engine import Trace
    from dmaxlit.files import require_other_files, writable_path
    from dmaxlit.viewer import page, write_page

    writable_path(Path(output))
    if Path(output).suffix.lower() not in (".html", ".htm"):
        raise UserError(f"output: expected a file that ends in .html, got {output!r}")
    require_other_files({"output": output}, {"the traces": traces})
    records = [Trace.load(path) for path in traces]
    if tokenizer is not None:
        from dmaxlit.backbone.tokenizer import load_tokenizer

        loaded = load_tokenizer(tokenizer)
        for record in records:
            record.add_texts(loaded)
    labels = _labels(traces, records)
    panels = []
    for path, record, label in zip(traces, records, labels, strict=True):
        try:
            panels.append(record.panel(rows, label))
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    write_page(Path(output), page(panels), "output")
    number = len({index for panel in panels for index in panel.recordings})
    print(printable(f"{output}: {number} prompt{'s' * (number > 1)} of {', '.join(traces)}"))


def _labels(paths: Sequence[str], records: "Sequence[Trace]") -> list[str]:
    """Return names of the traces: how they were decoded; the file's name if that does not tell them apart."""
    labels = [record.label for record in records]
    if all(labels) and len(set(labels)) == len(labels):
        return labels
    return [
        f"{Path(path).stem} ({record.label})" if record.label else Path(path).stem
        for path, record in zip(paths, records, strict=True)
    ]
