import pytest

from dmaxlit import UserError
from dmaxlit.noise import NOISE, MaskedNoise
from dmaxlit.registry import Registry, class_and_options


def test_the_noise_strategies_are_registered():
    assert {"masked", "uniform", "on_policy"} < set(NOISE)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="unknown noise strategy 'x'; known: complementary"):
        NOISE.get("x")


def test_a_repeated_name_is_an_error():
    registry = Registry("thing", "things")
    registry.register("a")(MaskedNoise)
    registry.register("a")(MaskedNoise)  # the same class again, as on a reload, is not
    with pytest.raises(ValueError, match="thing 'a' is already registered"):
        registry.register("a")(Registry)
    assert registry.name_of(MaskedNoise) == "a"
    assert registry.name_of(Registry) is None


def test_the_summary_is_the_first_line_of_the_docstring():
    assert NOISE.summary("masked").startswith("Masked diffusion")


def test_entry_points_of_other_packages_are_found(tmp_path, monkeypatch):
    package = tmp_path / "their_noise-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: their-noise\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[dmaxlit.gadgets]\ntheirs = their_noise:Theirs\n")
    (tmp_path / "their_noise.py").write_text('class Theirs:\n    """A gadget."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert Registry("gadget", "gadgets").summary("theirs") == "A gadget."


def test_an_import_path_is_a_name_too_if_the_class_is_of_the_kind():
    assert NOISE.get("dmaxlit.noise.masked.MaskedNoise") is MaskedNoise
    for path, reason in {
        "no_module.Nope": "No module named 'no_module'",
        "dmaxlit.noise.Nope": "has no attribute 'Nope'",
        "dmaxlit.registry.Registry": "it is no NoiseStrategy",
        "os.sep": "it is no NoiseStrategy",
    }.items():
        with pytest.raises(UserError, match=f"unknown noise strategy '{path}' .*{reason}.*; known: complementary"):
            NOISE.get(path)


class Base:
    def __init__(self, size=1, *, hidden=2):
        self.size, self._hidden = size, hidden

    def __repr__(self):
        return class_and_options(self)


class PassesOn(Base):
    def __init__(self, name, **options):
        super().__init__(**options)
        self.name = name


class SetsItself(Base):
    def __init__(self, name):
        super().__init__(size=3)
        self.name = name


class Inherits(PassesOn):
    pass


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Base(), "Base(size=1)"),
        (PassesOn("a", size=5), "PassesOn(name='a', size=5)"),
        (SetsItself("a"), "SetsItself(name='a')"),
        (Inherits(Base()), "Inherits(name=Base(size=1), size=1)"),
    ],
)
def test_an_object_is_shown_with_the_options_that_its_constructor_takes(value, text):
    assert repr(value) == text
