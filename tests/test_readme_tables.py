"""The tables of the README files are what the benchmarks wrote."""

import json
import re
from functools import partial

import pytest

from dmaxlit.bench import (
    adaptation,
    codila,
    decode_speed,
    decoders,
    grading,
    loading,
    sandbox_overhead,
    scale_table,
    tables,
    train_speed,
)
from dmaxlit.bench.paired_table import format_pairs
from dmaxlit.bench.paper_tables import TABLES, WORDINGS
from dmaxlit.bench.studies import STUDIES
from dmaxlit.bench.summary import format_summary, summarize
from dmaxlit.bench.table_rows import TableRow
from tests.readmes import README, READMES, ROOT, TEXTS, name_of

RESULTS = ROOT / "dmaxlit" / "bench" / "results"
MARKS = (
    "adaptation",
    "blanks",
    "codila",
    "decode_speed",
    "decoders",
    "frontier",
    "frontier_long",
    "order",
    "programs_ablation",
    "programs_curves",
    "programs_low_parallelism",
    "programs_methods",
    "programs_stopping",
    "programs_training",
    "self_correction",
    "stories_methods_question_first",
    "stories_methods_question_last",
    "strategies",
    "train_speed",
    "trajectories",
    "truth",
    "vocabulary_on_policy",
    "vocabulary_uniform",
    "vocabulary_uniform_800",
    "without_revision",
)


def holders(mark):
    return [path for path in READMES if f"<!-- {mark} -->" in TEXTS[path]]


def table(mark):
    """Return the table between two comments, of a folder's README if it holds one."""
    path = holders(mark)[-1]
    return re.search(rf"<!-- {mark} -->\n(.*?)\n<!-- /{mark} -->", TEXTS[path], re.DOTALL).group(1)


@pytest.mark.parametrize("mark", MARKS)
def test_a_table_is_in_one_readme(mark):
    assert len(holders(mark)) == 1, [name_of(path) for path in holders(mark)]


def test_the_results_table_is_what_the_benchmark_wrote():
    results = json.loads((RESULTS / "self_correction.json").read_text())
    rows = [result for run in results["runs"] for result in run]
    summary = summarize(rows, STUDIES["methods"].rows)
    assert table("self_correction") == format_summary(summary)
    assert {entry["accuracy"]["seeds"] for entry in summary if not entry["row"].startswith("base")} == {5}
    assert {row["num_examples"] for row in rows} == {1000}


def test_the_table_of_what_does_not_revise_is_what_the_benchmark_wrote():
    runs = json.loads((RESULTS / "without_revision.json").read_text())["runs"]
    rows = [result for run in runs for result in run]
    assert table("without_revision") == format_summary(summarize(rows, STUDIES["without_revision"].rows))


@pytest.mark.parametrize(
    ("mark", "command"),
    [("self_correction", "bench self_correction"), ("programs_methods", "bench tables --task programs")],
)
def test_results_in_the_root_readme_are_those_of_the_table(mark, command):
    """Rows of the results may be repeated in the root README, below the command, with some of their columns."""
    below = TEXTS[README].split(f"python -m dmaxlit {command}")[1]
    repeated = re.search(r"(^\|.*\n)+", below, re.MULTILINE).group()
    rows = [[cell.strip() for cell in line.split("|")] for line in table(mark).splitlines()]
    full = {cells[1]: dict(zip(rows[0], cells, strict=True)) for cells in rows}
    titles, _, *lines = [[cell.strip() for cell in line.split("|")] for line in repeated.splitlines()]
    for cells in lines:
        assert cells == [full[cells[1]][title] for title in titles], cells


@pytest.mark.parametrize(
    ("mark", "entries", "make", "format_table"),
    [
        ("decoders", "summary", None, decoders.format_table),
        ("decode_speed", "measurements", decode_speed.Measurement, decode_speed.format_table),
        ("frontier", "summary", None, partial(format_pairs, reference="DMax")),
        ("frontier_long", "summary", None, partial(format_pairs, reference="DMax")),
        ("grading", "checks", grading.Check, grading.format_table),
        ("loading", "measurements", loading.Start, loading.format_table),
        ("scale", "runs", scale_table.ScaleRun, scale_table.format_table),
        ("train_speed", "measurements", train_speed.TrainingCost, train_speed.format_table),
    ],
)
def test_tables_of_the_other_benchmarks_are_what_they_wrote(mark, entries, make, format_table):
    results = json.loads((RESULTS / f"{mark}.json").read_text())[entries]
    assert table(mark) == format_table(results if make is None else [make(**entry) for entry in results])


@pytest.mark.parametrize("task", WORDINGS)
def test_the_papers_tables_are_what_the_benchmark_wrote(task):
    marks = set()
    for name, content in json.loads((RESULTS / f"tables_{task}.json").read_text()).items():
        method, spec = TABLES[name].reference
        for wording, summary in content["summary"].items():
            mark = "_".join(filter(None, (task, name, wording.replace(" ", "_"))))
            assert table(mark) == format_pairs(summary, f"{method} / {spec.title}", "base", tables._WITHOUT)
            marks.add(mark)
    assert marks == {mark for mark in MARKS if mark.startswith(f"{task}_")}


def test_the_overhead_of_the_sandbox_is_what_the_benchmark_measured():
    overhead = sandbox_overhead.SandboxOverhead(**json.loads((RESULTS / "grading.json").read_text())["sandbox"])
    assert overhead.line() in TEXTS[ROOT / "dmaxlit" / "bench" / "README.md"]
    assert overhead.percentile_95 < 0.3


def test_the_adaptation_table_is_what_the_benchmark_wrote():
    runs = json.loads((RESULTS / "adaptation.json").read_text())["runs"]
    rows = [result for run in runs for result in run]
    assert table("adaptation") == format_summary(summarize(rows, adaptation._ROWS))


def test_the_tables_of_codila_are_what_the_benchmark_wrote():
    assert table("codila") == codila.format_tables(json.loads((RESULTS / "codila.json").read_text()))


@pytest.mark.parametrize("models", ["uniform", "on_policy", "uniform_800"])
def test_the_tables_of_the_vocabulary_are_what_the_benchmark_wrote(models):
    results = json.loads((RESULTS / "vocabulary.json").read_text())[models]
    rows = [result for run in results["runs"] for result in run]
    titles = [(entry["row"], entry["decoder"], entry["options"]) for entry in results["summary"]]
    kinds = [TableRow(*row.split(" / "), decoder, options) for row, decoder, options in titles]
    assert table(f"vocabulary_{models}") == format_summary(summarize(rows, kinds))


@pytest.mark.parametrize("study", ["strategies", "truth", "trajectories"])
def test_the_comparison_of_strategies_is_what_the_benchmark_wrote(study):
    runs = json.loads((RESULTS / "strategies.json").read_text())[study]["runs"]
    rows = [result for run in runs for result in run]
    assert table(study) == format_summary(summarize(rows, STUDIES[study].rows))


def with_interval(estimate, of=0):
    """Format an estimate; its number of prompts follows if it is below ``of``."""
    some = f" ({estimate['prompts']})" if estimate["prompts"] < of else ""
    return "{mean:.2f} [{low:.2f}, {high:.2f}]".format(**estimate) + some


def test_the_table_of_decoding_order_is_what_the_analysis_wrote():
    lines = ["| decoder | right of 500 | AFP | AFP of right | AFP of wrong | tau |", "|---|---|---|---|---|---|"]
    for report in json.loads((RESULTS / "order.json").read_text())["reports"]:
        rows = {row["verdict"]: row for row in report["rows"] if row["part"] == "whole"}
        assert rows["all"]["answers"] == 500
        wrong = with_interval(rows["wrong"]["afp"]) if rows["wrong"]["answers"] else "-"
        figures = [with_interval(rows["all"]["afp"]), with_interval(rows["right"]["afp"]), wrong]
        cells = [report["decoder"], str(rows["right"]["answers"]), *figures, with_interval(rows["all"]["tau"], of=500)]
        lines.append(f"| {' | '.join(cells)} |")
    assert table("order") == "\n".join(lines)


def test_the_table_of_blanks_is_what_the_analysis_wrote():
    header = ["decoder", "tau, candidates", "tau, rounds", *(f"rank, {n} left" for n in (1, 2, 3, 4))]
    header += [f"rank, round {n}" for n in (1, 2, 3)]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for report in json.loads((RESULTS / "order.json").read_text())["reports"]:
        blanks = report["blanks"]
        correlation = blanks["correlation"]
        taus = [with_interval(correlation[measure], blanks["puzzles"]) for measure in ("candidates", "rounds")]
        assert [row["value"] for row in blanks["rows"]] == [1, 2, 3, 4, 1, 2, 3]
        cells = [report["decoder"], *taus, *(f"{row['rank']['mean']:.1f}" for row in blanks["rows"])]
        lines.append(f"| {' | '.join(cells)} |")
    assert table("blanks") == "\n".join(lines)


def test_figures_on_a_gpu_are_those_of_their_file():
    results = json.loads((RESULTS / "h100.json").read_text())
    decode, train = results["decode"]["measurements"], results["train"]["measurements"]
    rows = [
        f"| decode: {entry['contestant']}{', batch 1, not compiled' * (entry['contestant'] == 'engine')} "
        f"| {entry['tokens_per_second']:.0f} | {entry['tokens_per_second'] / decode[0]['tokens_per_second']:.2f} "
        f"| {1000 * entry['seconds_per_forward']:.1f} | {1000 * entry['weight_read_seconds']:.2f} | |"
        for entry in decode
    ]
    rows += [
        f"| train: {entry['contestant']} | {entry['tokens_per_second']:.0f} "
        f"| {entry['tokens_per_second'] / train[0]['tokens_per_second']:.2f} | | | {entry['peak_mib']:.0f} |"
        for entry in train
    ]
    text = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    assert "\n".join(rows) in text
    commands = [" ".join(results[name]["command"].split()) for name in ("decode", "train")]
    assert all(command in " ".join(text.replace("\\\n", " ").split()) for command in commands)
