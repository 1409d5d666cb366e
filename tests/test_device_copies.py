import pytest
import torch

from dmaxlit.device_copies import on_device


@pytest.mark.parametrize("values", [[], [3, 1], [[1, 2], [3, 4]], [[], []]])
def test_integers_become_a_tensor_of_integers(values):
    copy = on_device(values, torch.device("cpu"))
    assert copy.dtype == torch.long
    assert copy.tolist() == values


def test_a_tensor_keeps_its_type():
    values = torch.rand(2, 3)
    assert torch.equal(on_device(values, torch.device("cpu")), values)
    assert on_device(values, torch.device("meta")).device.type == "meta"
