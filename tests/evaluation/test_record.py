import subprocess

import torch

from dmaxlit import DMaxModule
from dmaxlit.evaluation import record
from dmaxlit.evaluation.record import TPF_RULES, describe_device, describe_model
from dmaxlit.files import weights_hash
from dmaxlit.metrics import CONVENTIONS
from tests.conftest import make_denoiser


def test_every_rule_of_counting_is_explained():
    assert set(TPF_RULES) == set(CONVENTIONS)


def test_a_model_is_described_by_its_weights_and_sizes():
    module = DMaxModule(make_denoiser(block_length=16))
    described = describe_model(module, "builtin:chain-base")
    assert described["weights_sha256"] == weights_hash(module)
    assert (described["dtype"], described["block_length"], described["context_length"]) == ("float32", 16, 128)
    assert described["num_parameters"] == sum(p.numel() for p in module.backbone.model.parameters())
    assert (described["source"], described["revision"], described["attention"]) == ("builtin:chain-base", None, "sdpa")


def test_the_machine_is_described():
    described = describe_device(torch.device("cpu"), 2, 1)
    assert (described["type"], described["processes"], described["nodes"]) == ("cpu", 2, 1)
    assert described["threads"] == torch.get_num_threads()
    assert described["name"]


def test_the_code_s_revision_is_that_of_the_checkout_and_none_for_a_wheel(tmp_path, monkeypatch):
    package = tmp_path / "checkout" / "dmaxlit" / "evaluation"
    package.mkdir(parents=True)
    monkeypatch.setattr(record, "__file__", str(package / "record.py"))
    assert record._code_revision() is None

    def git(*args):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        command = ["git", *identity, "-C", str(tmp_path / "checkout"), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    (package / "record.py").write_text("1")
    git("init", "-q")
    assert record._code_revision() is None  # no commit yet
    git("add", "-A")
    git("commit", "-qm", "one")
    assert record._code_revision() == git("rev-parse", "HEAD")
    (package / "record.py").write_text("2")
    assert record._code_revision() == git("rev-parse", "HEAD") + "-dirty"
