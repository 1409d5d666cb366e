import pytest
import torch

from dmaxlit import UserError
from dmaxlit.training.muon import MuonAdamW, orthogonalize


def tiny(seed=0):
    torch.manual_seed(seed)
    return torch.nn.ModuleDict(
        {"embed": torch.nn.Embedding(7, 6), "up": torch.nn.Linear(6, 9), "down": torch.nn.Linear(9, 6, bias=False)}
    )


def loss_of(model):
    x = model["embed"](torch.tensor([1, 2, 3]))
    return model["down"](torch.tanh(model["up"](x))).square().sum()


@pytest.mark.parametrize("shape", [(5, 8, 3), (5, 3, 8), (1, 6, 6)])
def test_orthogonalize_pulls_singular_values_to_one_and_keeps_the_directions(shape):
    torch.manual_seed(0)
    x = torch.randn(shape)
    out = orthogonalize(x, steps=8)
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.6
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    cosine = (out * (u @ v)).sum((-2, -1)) / out.norm(dim=(-2, -1)) / (u @ v).norm(dim=(-2, -1))
    assert cosine.min() > 0.97


def test_updates_equal_torchs_muon_and_adamw(monkeypatch):
    # torch's Muon iterates in bfloat16; in float32 the two must agree closely.
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    ours, theirs = tiny(), tiny()
    optimizer = MuonAdamW(ours.named_parameters(), lr=0.02, adamw_lr=1e-3, weight_decay=0.1)
    matrices = [theirs["up"].weight, theirs["down"].weight]
    others = [theirs["embed"].weight, theirs["up"].bias]
    parts = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1),
        torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1),
    ]
    for _ in range(3):
        for model, steppers in ((ours, [optimizer]), (theirs, parts)):
            for part in steppers:
                part.zero_grad()
            loss_of(model).backward()
            for part in steppers:
                part.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_its_state_restores_exactly():
    def run(model, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()

    straight, halted = tiny(), tiny()
    run(straight, MuonAdamW(straight.named_parameters()), 6)
    first = MuonAdamW(halted.named_parameters())
    run(halted, first, 3)
    second = MuonAdamW(halted.named_parameters())
    second.load_state_dict(first.state_dict())
    run(halted, second, 3)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), halted.parameters(), strict=True))


def test_schedulers_reach_both_groups():
    model = tiny()
    optimizer = MuonAdamW(model.named_parameters(), lr=0.02, adamw_lr=0.003)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.0015])


def test_bad_options_are_refused():
    model = tiny()
    with pytest.raises(UserError, match=r"expected .name, parameter. pairs"):
        MuonAdamW(model.parameters())
    with pytest.raises(UserError, match="momentum"):
        MuonAdamW(model.named_parameters(), momentum=1.0)
