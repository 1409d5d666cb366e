"""Subclasses of the module, named by --model."""

from importlib import import_module

import pytest

import dmaxlit
from dmaxlit import DMaxModule, UserError
from dmaxlit.cli.model_class import split_model_class

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*smaller than the logging interval"
)

OWN_MODULE = '''
import torch

from dmaxlit import DMaxModule
from dmaxlit.backbone import Denoiser

class WithHead(DMaxModule):
    """A module with a weight of its own.

    Args:
        strength: Weight of the second loss.
    """

    def __init__(self, backbone: Denoiser, strength: float = 0.5, **options):
        super().__init__(backbone, **options)
        self.strength = strength
        self.head = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.loss(batch) + self.strength * self.head.weight.square().sum()

class Untyped(DMaxModule):
    def __init__(self, backbone, **options):
        super().__init__(backbone, **options)

class Other:
    pass
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my_module.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own")
def test_a_subclass_trains_resumes_and_loads(dmax, base, tmp_path):
    flags = ["--model.strength", "0.25", "--trainer.max_steps"]
    command = ["fit", "--config", str(base), "--model", "my_module.WithHead", *flags]
    outcome = dmax([*command, "2"])
    assert outcome.status == 0, outcome.err
    (last,) = tmp_path.rglob("last.ckpt")
    my_module = import_module("my_module")
    module = my_module.WithHead.load_from_checkpoint(last, strength=0.25)
    assert module.strength == 0.25
    assert module.head.weight.abs().sum() > 0
    again = dmaxlit.load(last)
    assert type(again) is DMaxModule
    assert all(
        (one == other).all()
        for one, other in zip(module.backbone.parameters(), again.backbone.parameters(), strict=True)
    )
    outcome = dmax([*command, "3"])
    assert outcome.status == 0, outcome.err
    longer = my_module.WithHead.load_from_checkpoint(last)
    assert longer.head.weight.norm() < module.head.weight.norm()
    refusal = dmax(["fit", "--config", str(base), "--trainer.max_steps", "4"]).refusal
    assert "another run" in refusal


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("path", ["my_module.Other", "my_module.Missing", "no_such_file.Module", "torch.nn.Linear"])
def test_other_classes_are_refused(path):
    with pytest.raises(UserError, match="model: expected the import path of a subclass of DMaxModule") as caught:
        split_model_class(["--model", path])
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("own")
def test_only_import_paths_are_taken_from_the_arguments():
    for args in (["--model", "my.yaml"], ["--model={noise: masked}"], ["--model"], ["--model.noise", "a.B"], ["--x=1"]):
        assert split_model_class(args) == (DMaxModule, args)
    for args in (["--model", "my_module.WithHead"], ["--model=my_module.WithHead"]):
        cls, others = split_model_class(["--a", "1", *args, "--b=2"])
        assert cls.__name__ == "WithHead"
        assert others == ["--a", "1", "--b=2"]


def test_a_folder_whose_name_has_a_dot_is_a_model(tmp_path, monkeypatch):
    (tmp_path / "my_model.v2").mkdir()
    monkeypatch.chdir(tmp_path)
    for args in (["--model", "my_model.v2"], ["--model=my_model.v2"]):
        assert split_model_class(args) == (DMaxModule, args)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("command", ["plan", "preview --device cpu"])
def test_commands_with_the_options_of_fit_take_a_subclass_too(dmax, base, command):
    flags = "--model my_module.WithHead --model.strength 0.25"
    outcome = dmax(f"{command} --config {base} {flags}")
    assert outcome.status == 0, outcome.err


@pytest.mark.usefixtures("own")
def test_a_backbone_without_its_type_is_refused_in_one_line(dmax, base):
    refusal = dmax(["fit", "--config", str(base), "--model", "my_module.Untyped"]).refusal
    assert "backbone: expected a Denoiser, and annotated so in a subclass, got" in refusal
