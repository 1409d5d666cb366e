from dmaxlit.backbone.formats import hub
from dmaxlit.cli import listing
from dmaxlit.decoding import DECODERS
from dmaxlit.noise import NOISE
from dmaxlit.tasks import TASKS


def test_every_registered_name_has_one_line_with_its_summary(dmax):
    lines = dmax("list").out.splitlines()
    for registry in (NOISE, DECODERS, TASKS):
        for name in registry:
            assert any(line.split() == [name, *registry.summary(name).split()] for line in lines), name


def test_one_kind_can_be_asked_for(dmax):
    output = dmax("list --kind decoders").out
    assert [line.split()[0] for line in output.splitlines()] == ["decoders", *DECODERS]


def test_built_in_models_are_listed_with_the_first_sentence_of_their_card(dmax, tmp_path, monkeypatch):
    for name in ("blank", "small"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    card = "---\ntags: [x]\n---\n\n# Small\n\nA small model.\n\n---\n\nMore of it.\n"
    (tmp_path / "small" / "README.md").write_text(card)
    monkeypatch.setattr("dmaxlit.cli.listing.BUILTIN_MODELS", tmp_path)
    lines = [line.split() for line in dmax("list --kind models").out.splitlines()[1:]]
    assert lines == [["builtin:blank"], ["builtin:small", "A", "small", "model."]]


def test_the_folder_of_built_in_models_is_the_one_they_are_loaded_from():
    assert listing.BUILTIN_MODELS == hub.BUILTIN_MODELS


def test_an_unknown_kind_is_refused(dmax):
    assert dmax("list --kind x").refusal == "kind: expected 'all', 'noise', 'decoders', 'tasks' or 'models', got 'x'"
