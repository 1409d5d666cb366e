"""The claims of the README files: their code runs, and what they name and link to is there."""

import re
import shutil
import textwrap
from pathlib import Path

import lightning as L
import pytest
import torch

import dmaxlit
from dmaxlit import DMaxModule
from dmaxlit.decoding import DECODERS, Decoder
from dmaxlit.noise import NOISE, NoiseStrategy, View
from dmaxlit.tasks import TASKS
from dmaxlit.testing import decoder_properties, noise_properties, task_properties
from tests.conftest import make_denoiser
from tests.readmes import README, READMES, ROOT, TEXTS, name_of
from tests.sandbox.requirement import needs_sandbox
from tests.test_module import QUIET, loader

#: Libraries that examples use if they are installed.
SWEEPS = ("optuna", "ray")


def python_blocks(path):
    return re.findall(r"^```python\n(.*?)^```", TEXTS[path], re.DOTALL | re.MULTILINE)


# ---- code ------------------------------------------------------------------------------------------------------------


def documented_classes(base):
    """Yield the subclasses of ``base`` that code blocks of the READMEs define, those of the root README first."""
    for block in (block for path in READMES for block in python_blocks(path)):
        if re.search(
            rf"^class \w+\(({'|'.join(cls.__name__ for cls in (base, *base.__subclasses__()))})\):", block, re.M
        ):
            namespace = {"torch": torch, "NoiseStrategy": NoiseStrategy, "View": View}  # imported by the first block
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
        (Decoder, decoder_properties, {"Hasty", "Finisher", "LeftToRight"}),
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


def test_the_documented_task_has_every_property(monkeypatch):
    monkeypatch.setattr(TASKS, "_classes", dict(TASKS._classes))
    (block,) = [one for one in python_blocks(ROOT / "dmaxlit" / "tasks" / "README.md") if "class DoublingTask" in one]
    namespace = {"dmaxlit": dmaxlit}  # imported by the first block
    exec(compile(block, "my_task.py", "exec"), namespace)
    for check in task_properties(namespace["DoublingTask"]):
        check()


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=needs_sandbox if path.parent.name in ("sandbox", "programs") else ())
        for path in READMES
        if python_blocks(path)
    ],
    ids=name_of,
)
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
    prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{name_of(path)} links to {link}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{name_of(path)} links to {link}"


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


@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_the_modules_of_a_table_exist(path):
    first_column = " ".join(re.findall(r"^\|([^|]*)\|", TEXTS[path], re.MULTILINE))
    assert not [name for name in re.findall(r"`([\w./]+\.py)`", first_column) if not (path.parent / name).is_file()]


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_named(recipe):
    assert re.search(rf"[`\[(]{recipe.stem}(\.yaml)?[`\])]", TEXTS[ROOT / "configs" / "README.md"])


def test_the_test_command_is_the_one_ci_runs():
    assert "python -m pytest\n" in TEXTS[README]
    assert "<!-- test -->" in TEXTS[README]
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
