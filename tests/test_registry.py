import re

import pytest

from dmaxlit.errors import DMaxWarning, UserError
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


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with entry points of the group ``dmaxlit.gadgets``."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name, code, *points):
        package = tmp_path / f"{name}-1.0.dist-info"
        package.mkdir()
        (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
        (package / "entry_points.txt").write_text("\n".join(["[dmaxlit.gadgets]", *points, ""]))
        (tmp_path / f"{name}.py").write_text(code)

    return install


def test_entry_points_of_other_packages_are_found(install):
    install("their_noise", 'class Theirs:\n    """A gadget."""\n', "theirs = their_noise:Theirs")
    assert Registry("gadget", "gadgets").summary("theirs") == "A gadget."


@pytest.mark.parametrize(
    ("code", "target", "reason"),
    [
        ("import no_such_module", "Theirs", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def broken(:", "Theirs", "SyntaxError: "),
        ("1 / 0", "Theirs", "ZeroDivisionError: division by zero"),
        ("raise SystemExit('no\\nGPU')", "Theirs", "SystemExit: no GPU"),
        ("", "Theirs", "AttributeError: "),
        ("Theirs = 3", "Theirs", "expected a class, got broken_{}:Theirs"),
        ("class Theirs: ...", "Theirs", ""),
    ],
)
def test_a_package_that_cannot_be_registered_is_left_out_with_a_warning(install, code, target, reason, request):
    name = f"broken_{request.node.callspec.indices['code']}"
    install(name, code, f"theirs = {name}:{target}")
    install(f"good_{name}", "class Good: ...", f"good = good_{name}:Good")
    registry = Registry("gadget", "gadgets")
    registry.register("a")(MaskedNoise)
    if not reason:
        assert list(registry) == ["a", "good", "theirs"]
        return
    index = name.partition("_")[2]
    message = f"package '{name.replace('_', '-')}': its gadget 'theirs' is left out: {reason.format(index)}"
    with pytest.warns(DMaxWarning, match=f"^{re.escape(message)}") as caught:
        assert list(registry) == ["a", "good"]
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert list(registry) == ["a", "good"]  # and no second warning, which would be an error here


@pytest.mark.parametrize("on_demand", [False, True])
def test_a_package_cannot_take_the_name_of_a_built_in_class(install, on_demand):
    name = f"taker_{int(on_demand)}"
    install(name, "class Theirs: ...", f"a = {name}:Theirs", f"b = {name}:Theirs")
    registry = Registry("gadget", "gadgets", on_demand={"a": "unused"} if on_demand else None)
    if not on_demand:
        registry.register("a")(MaskedNoise)
    with pytest.warns(DMaxWarning, match=rf"^package 'taker-{int(on_demand)}': its gadget 'a' is left out: .*(by|has)"):
        assert list(registry) == ["a", "b"]
    if not on_demand:
        assert registry.get("a") is MaskedNoise


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


@pytest.mark.parametrize(("code", "reason"), [("x = undefined", "NameError"), ("class", "SyntaxError")])
def test_a_file_that_cannot_be_run_is_one_line(tmp_path, monkeypatch, code, reason):
    (tmp_path / f"own_{reason.lower()}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=f"unknown noise strategy .* \\({reason}: .*; known: complementary"):
        NOISE.get(f"own_{reason.lower()}.Mine")


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
