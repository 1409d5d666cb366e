import json

import pytest
import torch

import dmaxlit.backbone.denoiser as denoiser_module
from dmaxlit import DMaxModule, UserError
from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.bench import TrainSpeedBench
from dmaxlit.bench.published import published_update
from dmaxlit.noise import OnPolicyNoise
from dmaxlit.randomness import RowGenerator
from dmaxlit.training import chunked_logits
from tests.conftest import make_batch, make_denoiser


def test_the_published_procedure_and_our_step_have_the_same_loss_and_gradients():
    clean = make_batch((3, 10, 8), (21, 14, 16))
    noise, module = OnPolicyNoise(rollout="argmax"), None
    denoiser = make_denoiser(sharpen=3.0).double()
    theirs = published_update(denoiser, clean, noise.corrupt(clean, RowGenerator(0, [0, 1, 2])).positions)
    expected = [parameter.grad.clone() for parameter in denoiser.parameters()]
    denoiser.zero_grad()
    module = DMaxModule(denoiser, noise)
    ours = torch.stack([loss.total for loss in module.view_losses(clean, RowGenerator(0, [0, 1, 2]))]).sum()
    ours.backward()
    torch.testing.assert_close(ours.detach(), theirs, rtol=1e-5, atol=1e-5)
    for parameter, gradient in zip(denoiser.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)


def test_the_command_writes_table_and_json(tmp_path, monkeypatch):
    monkeypatch.setattr("dmaxlit.bench.speed.in_new_process", lambda function, *job: function(*job))
    bench = TrainSpeedBench(tmp_path, (50,), (16, 32), hidden_size=32, layers=1, block_length=8, updates=1)
    monkeypatch.setattr(TrainSpeedBench, "matmul_speed", lambda self, dtype: 1e12)
    table = bench.run()
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == table + "\n"
    content = json.loads((tmp_path / "results.json").read_text())
    costs = content["measurements"]
    assert [(cost["contestant"], cost["length"]) for cost in costs] == [
        ("published", 16),
        ("ours", 16),
        ("ours, checkpointed", 16),
        ("published", 32),
        ("ours", 32),
        ("ours, checkpointed", 32),
    ]
    assert all(cost["tokens_per_second"] > 0 and cost["matmul_share"] > 0 for cost in costs)
    for length in (16, 32):
        theirs, *ours = (cost["loss"] for cost in costs if cost["length"] == length)
        assert ours == pytest.approx([theirs] * 2, rel=1e-4)
    lines = table.splitlines()[2:]
    assert "| published |" in lines[0]
    assert "| 1.00 |" in lines[0]


def test_compiled_and_flex_contestants_are_options(tmp_path, monkeypatch):
    monkeypatch.setattr("dmaxlit.bench.speed.usable_device", lambda name: name)  # as if there were a GPU
    bench = TrainSpeedBench(tmp_path, vocab_sizes=[8], device="cuda", compile=True, flex=True)
    assert [job[0] for job in bench.jobs()] == [
        "published",
        "ours",
        "ours, checkpointed",
        "ours, FlexAttention",
        "ours, compiled",
        "ours, FlexAttention, compiled",
    ]


FORWARDS = 3  # of an update: of the clean copy, the masked view and the predicted one


def test_the_work_of_compiled_forwards_is_counted_in_plain_ones(tmp_path, monkeypatch):
    bench = TrainSpeedBench(tmp_path, hidden_size=32, layers=1, block_length=8, updates=1)
    monkeypatch.setattr(TrainSpeedBench, "matmul_speed", lambda self, dtype: 1.0)
    called: list[bool] = []

    def compiled(*_):
        called.append(True)
        return Denoiser.hidden

    monkeypatch.setattr(denoiser_module, "_compiled", compiled)
    plain = bench.measure("ours", 50, 16)
    assert not called
    cost = bench.measure("ours, compiled", 50, 16)
    assert len(called) == 2 * FORWARDS  # the warm-up and one update
    work = [item.matmul_share / item.tokens_per_second for item in (plain, cost)]
    assert work[0] == pytest.approx(work[1], rel=1e-6)
    assert work[0] > 0


def test_matrix_work_is_counted_also_where_logits_come_in_pieces(tmp_path, monkeypatch):
    bench = TrainSpeedBench(tmp_path, hidden_size=32, layers=1, block_length=8, updates=1)
    monkeypatch.setattr(TrainSpeedBench, "matmul_speed", lambda self, dtype: 1.0)

    def work():
        cost = bench.measure("ours", 50, 16)
        return cost.matmul_share / cost.tokens_per_second

    whole = work()
    monkeypatch.setitem(chunked_logits._MAX_LOGITS, "cpu", 50)
    monkeypatch.setattr(chunked_logits, "_FEWEST", 1)
    assert work() >= whole  # logits are computed again for the rollout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 48}, "hidden_size: expected a multiple of head_dim 32, got 48"),
        ({"hidden_size": 64, "head_dim": 48}, "hidden_size: expected a multiple of head_dim 48, got 64"),
        ({"flex": True}, "flex: expected a GPU as device, got 'cpu'"),
        ({"device": "cube"}, "device: expected one that torch can compute on, got 'cube'"),
        ({"updates": 0}, "updates: expected at least 1, got 0"),
        ({"vocab_sizes": [4]}, r"vocab_sizes: expected numbers of at least 8, got \[4\]"),
        ({"lengths": [33]}, r"lengths: expected multiples of block_length 32, got \[33\]"),
    ],
)
def test_settings_out_of_range_are_refused(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        TrainSpeedBench(tmp_path, **options)
