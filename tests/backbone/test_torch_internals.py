"""One test for each private attribute of torch that is used; a failure names what changed."""

import importlib

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F

from dmaxlit.backbone import torch_internals as internals


def test_the_limit_of_recompilations_can_be_raised_and_is_never_lowered():
    config = torch._dynamo.config
    assert hasattr(config, "recompile_limit"), "torch._dynamo.config.recompile_limit is gone"
    with config.patch(recompile_limit=8):
        internals.allow_recompilations(64)
        assert config.recompile_limit == 64
        internals.allow_recompilations(16)
        assert config.recompile_limit == 64


def test_a_buffer_can_be_marked_as_static():
    buffer = torch.zeros(2)
    internals.mark_static_address(buffer)
    assert getattr(buffer, "_dynamo_static_input_type", None), "torch._dynamo.mark_static_address marks nothing"


def test_a_sharded_module_can_be_initialised_before_its_first_forward():
    assert hasattr(FSDPModule, "_get_fsdp_state"), "FSDPModule._get_fsdp_state is gone"
    state = importlib.import_module(FSDPModule._get_fsdp_state.__module__).FSDPState
    assert hasattr(state, "_lazy_init"), "FSDPState._lazy_init is gone: what gathers a model before its first forward?"


def test_storages_are_told_apart_also_on_the_meta_device():
    for device in ("cpu", "meta"):
        linear = nn.Linear(2, 3, device=device)
        same = internals.storage_id(linear.weight) == internals.storage_id(linear.weight.detach().view(-1))
        assert same, "UntypedStorage._cdata no longer identifies a storage"
        assert internals.storage_id(linear.weight) != internals.storage_id(linear.bias)


def test_grouped_products_of_any_type_have_a_shape_on_the_meta_device():
    for dtype in (torch.float32, torch.float16):
        inputs, stacked = (
            torch.empty(6, 8, dtype=dtype, device="meta"),
            torch.empty(2, 8, 4, dtype=dtype, device="meta"),
        )
        with internals.MetaGroupedProducts():
            out = F.grouped_mm(inputs, stacked, offs=torch.empty(2, dtype=torch.int32, device="meta"))
        assert (out.shape, out.dtype) == ((6, 4), dtype), "aten::_grouped_mm is no longer what grouped_mm calls"
