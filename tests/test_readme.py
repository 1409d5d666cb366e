"""The claims of the README files: their code runs, links resolve, and tables are what the benchmarks wrote."""

import json
import re
import shutil
import textwrap
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch

from dmaxlit import DMaxModule
from dmaxlit.bench import (
    adaptation,
    codila,
    decode_speed,
    decoders,
    grading,
    loading,
    sandbox_overhead,
    scale_table,
    train_speed,
)
from dmaxlit.bench.paired_table import format_pairs
from dmaxlit.bench.studies import STUDIES
from dmaxlit.bench.summary import format_summary, summarize
from dmaxlit.decoding import DECODERS, Decoder
from dmaxlit.noise import NOISE, NoiseStrategy, View
from dmaxlit.tasks import TASKS
from dmaxlit.testing import decoder_properties, noise_properties
from tests.conftest import make_denoiser
from tests.test_module import QUIET, loader

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
READMES = [
    README,
    *(path for top in ("callbacks", "configs", "dmaxlit") for path in sorted((ROOT / top).rglob("README.md"))),
]
TEXTS = {path: path.read_text() for path in READMES}
RESULTS = ROOT / "dmaxlit" / "bench" / "results"
#: Libraries that examples use if they are installed.
SWEEPS = ("optuna", "ray")


def name_of(path):
    return str(path.relative_to(ROOT))


def python_blocks(path):
    return re.findall(r"^```python\n(.*?)^```", TEXTS[path], re.DOTALL | re.MULTILINE)


# ---- code ------------------------------------------------------------------------------------------------------------


def documented_classes(base):
    """Yield the subclasses of ``base`` that code blocks of the READMEs define, those of the root README first."""
    for block in (block for path in READMES for block in python_blocks(path)):
        if re.search(
            rf"^class \w+\(({'|'.join(cls.__name__ for cls in (base, *base.__subclasses__()))})\):", block, re.M
        ):
            namespace = {"torch": torch, "NoiseStrategy": NoiseStrategy, "View": View}  # of blocks before it
            exec(compile(block, "my_file.py", "exec"), namespace)
            for value in namespace.values():
                if isinstance(value, type) and issubclass(value, base) and not value.__module__.startswith("dmaxlit"):
                    yield value


def documented_class(base):
    return next(documented_classes(base))


@pytest.mark.parametrize(
    ("base", "properties", "names"),
    [
        (NoiseStrategy, noise_properties, {"SpanNoise", "RareTokenNoise", "OPUT"}),
        (Decoder, decoder_properties, {"Hasty", "LeftToRight"}),
    ],
)
def test_documented_classes_have_every_property(base, properties, names):
    classes = list(documented_classes(base))
    assert {cls.__name__ for cls in classes} >= names
    for cls in classes:
        for check in properties(cls):
            check()


def test_the_strategy_of_ten_lines_trains():
    module = DMaxModule(make_denoiser(), documented_class(NoiseStrategy)())
    trainer = L.Trainer(**QUIET, max_steps=1)
    trainer.fit(module, loader())
    losses = [value for name, value in trainer.callback_metrics.items() if name.startswith("train/loss_")]
    assert losses
    assert all(torch.isfinite(loss) for loss in losses)


def test_the_decoder_of_a_few_lines_decodes():
    module = DMaxModule(make_denoiser(sharpen=3.0))
    answers = module.generate(["3 +1 ?", "7 *2 ?"], decoder=documented_class(Decoder)(), max_new_tokens=16)
    assert all(answer.num_tokens > 0 and answer.num_forwards <= 16 for answer in answers)


def compiled(block, name):
    """Compile a block. One that yields is the body of a strategy's ``views``, and is compiled as such."""
    try:
        return compile(block, name, "exec")
    except SyntaxError as error:
        if "outside function" not in str(error):
            raise
    return compile("def views(self, clean, generator):\n" + textwrap.indent(block, "    "), name, "exec")


def imports(block, library):
    return re.search(rf"^(import|from) {library}\b", block, re.MULTILINE)


@pytest.mark.parametrize("path", [path for path in READMES if python_blocks(path)], ids=name_of)
def test_code_runs(path, tmp_path, monkeypatch):
    # The model that the quickstart would have trained.
    shutil.copytree(ROOT / "dmaxlit" / "models" / "chain-base", tmp_path / "runs" / "quickstart" / "model")
    monkeypatch.chdir(tmp_path)
    for registry in (DECODERS, NOISE, TASKS):  # what a README registers is gone after the test
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    namespace = {"__name__": "__main__"}
    for number, block in enumerate(python_blocks(path), 1):
        if not any(imports(block, library) for library in SWEEPS):
            exec(compiled(block, f"{name_of(path)}, block {number}"), namespace)


@pytest.mark.slow
@pytest.mark.parametrize("library", SWEEPS)
def test_sweeps_run(library, tmp_path, monkeypatch, capsys):
    pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    path = ROOT / "dmaxlit" / "README.md"
    (shared,) = [block for block in python_blocks(path) if "def train(" in block]
    (sweep,) = [block for block in python_blocks(path) if imports(block, library)]
    namespace = {"__name__": "__main__"}
    exec(compiled(shared, "shared"), namespace)
    exec(compiled(sweep, library), namespace)
    assert "'level': 0." in capsys.readouterr().out
    if library == "optuna":
        assert len(namespace["study"].trials[0].intermediate_values) == 2  # one for each validation


# ---- structure -------------------------------------------------------------------------------------------------------


def test_the_root_readme_is_short():
    assert len(TEXTS[README].splitlines()) <= 200


def anchors(text):
    """Return the anchors of the headings, as GitHub makes them."""
    headings = re.findall(
        r"^#+ (.*?)\s*$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [*READMES, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_every_relative_link_resolves(path):
    prose = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{name_of(path)} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text()), f"{name_of(path)} links to {link}"


def test_every_file_of_the_tree_exists():
    """Check that the tree of the root README lists each folder once, and no file."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", TEXTS[README], re.DOTALL | re.MULTILINE)
    tree = next(block for block in fenced if re.search(r"^\W*dmaxlit/", block, re.MULTILINE))
    parents, folders = [], []
    for line in filter(str.strip, tree.splitlines()):
        name = re.match(r"[\s│├└─]*(\S+)", line).group(1)
        indent = line.index(name)
        parents = [(depth, folder) for depth, folder in parents if depth < indent]
        folder = (parents[-1][1] if parents else Path()) / name
        assert (ROOT / folder).is_dir(), f"README.md names the folder {folder}"
        parents.append((indent, folder))
        folders.append(folder)
    assert len(folders) == len(set(folders))


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_a_readme_that_lists_its_folder_s_files_names_every_module(path):
    modules = {module.name for module in path.parent.glob("*.py")} - {"__init__.py", "__main__.py"}
    unnamed = modules - set(re.findall(r"[`(](\w+\.py)[`)]", TEXTS[path]))
    if len(unnamed) < len(modules) / 2:  # others list what they have by another name, such as strategies
        assert unnamed == set()


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_named(recipe):
    assert re.search(rf"[`\[(]{recipe.stem}(\.yaml)?[`\])]", TEXTS[ROOT / "configs" / "README.md"])


def test_the_test_command_is_the_one_ci_runs():
    assert "python -m pytest\n" in TEXTS[README]
    assert "<!-- test -->" in TEXTS[README]
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


# ---- tables ----------------------------------------------------------------------------------------------------------

MARKS = (
    "adaptation",
    "blanks",
    "codila",
    "decode_speed",
    "decoders",
    "frontier",
    "order",
    "self_correction",
    "strategies",
    "train_speed",
    "truth",
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


def test_results_in_the_root_readme_are_those_of_the_table():
    """Rows of the results may be repeated in the root README, with some of their columns."""
    rows = [[cell.strip() for cell in line.split("|")] for line in table("self_correction").splitlines()[2:]]
    full = {cells[1]: cells for cells in rows}
    unmarked = re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", TEXTS[README], flags=re.DOTALL)
    lines = [line for line in unmarked.splitlines() if line.startswith("|") and line.split("|")[1].strip() in full]
    assert len(lines) == 5
    for line in lines:
        cells = [cell.strip() for cell in line.split("|")]
        assert set(cells) <= set(full[cells[1]]), line


@pytest.mark.parametrize(
    ("mark", "entries", "make", "format_table"),
    [
        ("decoders", "summary", None, decoders.format_table),
        ("decode_speed", "measurements", decode_speed.Measurement, decode_speed.format_table),
        ("frontier", "summary", None, partial(format_pairs, reference="DMax")),
        ("grading", "checks", grading.Check, grading.format_table),
        ("loading", "measurements", loading.Start, loading.format_table),
        ("scale", "runs", scale_table.ScaleRun, scale_table.format_table),
        ("train_speed", "measurements", train_speed.TrainingCost, train_speed.format_table),
    ],
)
def test_tables_of_the_other_benchmarks_are_what_they_wrote(mark, entries, make, format_table):
    results = json.loads((RESULTS / f"{mark}.json").read_text())[entries]
    assert table(mark) == format_table(results if make is None else [make(**entry) for entry in results])


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


@pytest.mark.parametrize("study", ["strategies", "truth"])
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
    text = (RESULTS.parent / "README.md").read_text()
    assert "\n".join(rows) in text
    commands = [" ".join(results[name]["command"].split()) for name in ("decode", "train")]
    assert all(command in " ".join(text.replace("\\\n", " ").split()) for command in commands)
