from importlib import import_module

import lightning as L
import pytest
import torchmetrics

from dmaxlit.backbone.formats import hub
from dmaxlit.cli import listing, recipes
from dmaxlit.decoding import DECODERS
from dmaxlit.decoding.admission import ADMISSIONS
from dmaxlit.metrics import RatioMetric
from dmaxlit.noise import NOISE
from dmaxlit.tasks import TASKS


def test_every_registered_name_has_one_line_with_its_summary(dmax):
    lines = dmax("list").out.splitlines()
    for registry in (NOISE, DECODERS, ADMISSIONS, TASKS):
        for name in registry:
            assert any(line.split() == [name, *registry.summary(name).split()] for line in lines), name


def test_one_kind_can_be_asked_for(dmax):
    output = dmax("list --kind decoders").out
    assert [line.split()[0] for line in output.splitlines()] == ["decoders", *DECODERS]


def test_every_kind_of_the_whole_list_can_be_asked_for(dmax):
    parts = [dmax(f"list --kind {kind}") for kind in listing._SUMMARIES]
    assert [part.status for part in parts] == [0] * len(parts)
    titles = [part.out.splitlines()[0] for part in parts]
    assert titles == [line for line in dmax("list").out.splitlines() if not line.startswith(" ")]


def test_built_in_models_are_listed_with_the_first_sentence_of_their_card(dmax, tmp_path, monkeypatch):
    for name in ("blank", "small"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    card = "---\ntags: [x]\n---\n\n# Small\n\nA small model.\n\n---\n\nMore of it.\n"
    (tmp_path / "small" / "README.md").write_text(card)
    monkeypatch.setattr("dmaxlit.cli.listing.BUILTIN_MODELS", tmp_path)
    lines = [line.split() for line in dmax("list --kind models").out.splitlines()[1:]]
    assert lines == [["builtin:blank"], ["builtin:small", "A", "small", "model."]]


@pytest.mark.parametrize(("kind", "base"), [("callbacks", L.Callback), ("metrics", torchmetrics.Metric)])
def test_exported_callbacks_and_metrics_are_listed_with_their_summary(dmax, kind, base):
    exported = vars(import_module(f"dmaxlit.{kind}"))
    classes = {
        name: value
        for name, value in exported.items()
        if isinstance(value, type) and issubclass(value, base) and value is not RatioMetric
    }
    rows = dict(line.split(maxsplit=1) for line in dmax(f"list --kind {kind}").out.splitlines()[1:])
    assert rows == {name: value.__doc__.partition("\n")[0] for name, value in classes.items()}


def test_recipes_are_listed_by_the_name_that_runs_them(dmax):
    lines = dmax("list --kind recipes").out.splitlines()[1:]
    names = [line.split()[0] for line in lines]
    assert names == sorted(f"builtin:{path.stem}" for path in recipes.RECIPES.glob("*.yaml"))
    assert [line.split(maxsplit=1)[1] for line in lines if "builtin:control " in line] == [
        "The control: masked training on the quickstart's corpus."
    ]


def test_the_folder_of_built_in_models_is_the_one_they_are_loaded_from():
    assert listing.BUILTIN_MODELS == hub.BUILTIN_MODELS


def test_an_unknown_kind_is_refused(dmax):
    kinds = "'all', 'noise', 'decoders', 'admissions', 'tasks', 'metrics', 'callbacks', 'models' or 'recipes'"
    assert dmax("list --kind x").refusal == f"kind: expected {kinds}, got 'x'"
