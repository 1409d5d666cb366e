import weakref

import pytest
import torch

from dmaxlit.backbone import RowCache, cache
from dmaxlit.backbone.cache import CleanCache


def test_the_clean_half_is_stored_once_and_shown_to_every_view():
    cache = CleanCache()
    clean = torch.randn(2, 1, 3, 4)
    for again in (0, 9):  # the second time as when a layer is computed again
        keys, values = cache.update(clean + again, clean + 1 + again, 0)
        assert torch.equal(keys, clean + again)
        assert torch.equal(values, clean + 1 + again)
    views = cache.view_cache()
    for _ in range(2):
        view = torch.randn(2, 1, 3, 4)
        keys, values = views.update(view, view + 1, 0)
        assert torch.equal(keys, torch.cat([clean, view], 2))
        assert torch.equal(values, torch.cat([clean, view], 2) + 1)


def test_row_cache_writes_each_row_at_its_own_slots():
    cache = RowCache(num_rows=3, length=6, num_layers=1)
    cache.prepare(slice(1, 3), torch.tensor([[0, 1], [3, 4]]), num_keys=5)
    new = torch.randn(2, 1, 2, 4)
    keys, values = cache.update(new, -new, 0)
    assert keys.shape == (2, 1, 5, 4)
    assert torch.equal(keys[0, :, :2], new[0])
    assert torch.equal(keys[1, :, 3:5], new[1])
    assert torch.equal(values, -keys)
    assert (keys[1, :, :3] == 0).all()
    cache.prepare(slice(0, 3), torch.tensor([[0], [2], [0]]), num_keys=5)
    keys, _ = cache.update(torch.zeros(3, 1, 1, 4), torch.zeros(3, 1, 1, 4), 0)
    assert torch.equal(keys[1, :, :2], new[0])
    assert torch.equal(keys[2, :, 3:5], new[1])
    assert (keys[0] == 0).all()


def test_rows_of_the_cache_change_their_index_and_leave():
    cache = RowCache(num_rows=4, length=3, num_layers=2)
    cache.reorder([1, 0, 2, 3], 2)  # nothing is stored yet
    first = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 2, 4)
    cache.prepare(slice(0, 4), torch.tensor([[0, 1]]).expand(4, -1), num_keys=2)
    for layer in range(2):
        cache.update(first + 10 * layer, -first - 10 * layer, layer)
    cache.prepare(slice(0, 1), torch.tensor([[0]]), num_keys=1)  # a shorter row comes last
    for layer in range(2):
        cache.update(first[:1, :, :1] + 10 * layer, -first[:1, :, :1] - 10 * layer, layer)
    cache.reorder([3, 0, 2], 2)
    for layer in range(2):
        cache.prepare(slice(0, 3), torch.full((3, 1), 2), num_keys=2)
        keys, values = cache.update(first[:3, :, :1], first[:3, :, :1], layer)
        assert keys[:, 0, :, 0].tolist() == [[row + 10 * layer] * 2 for row in (3.0, 0.0, 2.0)]
        assert torch.equal(values, -keys)


def test_a_row_that_is_cleared_holds_nothing():
    cache = RowCache(num_rows=2, length=3, num_layers=2, max_extra_rows=1)
    cache.clear(1)  # nothing is stored yet
    cache.prepare(slice(0, 2), torch.tensor([[0, 1, 2]]).expand(2, -1), num_keys=3)
    for layer in range(2):
        cache.update(torch.full((2, 1, 3, 4), torch.nan), torch.full((2, 1, 3, 4), torch.nan), layer)
    cache.clear(1)
    cache.prepare(slice(0, 2), torch.tensor([[0], [0]]), num_keys=3)
    for layer in range(2):
        for states in cache.update(torch.zeros(2, 1, 1, 4), torch.zeros(2, 1, 1, 4), layer):
            assert states[0, :, 1:].isnan().all()
            assert (states[1] == 0).all()


def test_forwards_at_the_same_placement_read_what_has_been_written_since():
    cache = RowCache(num_rows=2, length=4, num_layers=1)
    first = cache.prepare(slice(0, 2), torch.tensor([[0], [1]]), num_keys=3)
    new = torch.randn(2, 1, 1, 4)
    cache.update(new, -new, 0)
    cache.prepare(slice(0, 2), torch.tensor([[2], [0]]), num_keys=4)
    cache.update(new + 1, -new - 1, 0)
    cache.placement = first
    for added in (2, 3):
        keys, values = cache.update(new + added, -new - added, 0)
        assert keys.shape == (2, 1, 3, 4)
        assert torch.equal(keys[[0, 1], :, [0, 1]], new[:, :, 0] + added)
        assert torch.equal(keys[[0, 1], :, [2, 0]], new[:, :, 0] + 1)
        assert torch.equal(values, -keys)
    cache.reorder([1, 0], 3)
    reordered, _ = cache.update(new, -new, 0)
    assert torch.equal(reordered[[0, 1], :, [0, 1]], new[:, :, 0])
    assert torch.equal(reordered[[1, 0], :, 2], torch.stack([new[0, :, 0] + 1, 0 * new[0, :, 0]]))


def test_rows_get_more_slots_and_keep_what_they_hold():
    cache = RowCache(num_rows=2, length=3, num_layers=2, max_extra_rows=1)
    new = torch.randn(2, 1, 2, 4)
    for layer in range(2):
        cache.prepare(slice(0, 2), torch.tensor([[0, 1], [1, 2]]), num_keys=3)
        cache.update(new, -new, layer)
    cache.extend(6)
    cache.prepare(slice(0, 2), torch.tensor([[5], [4]]), num_keys=6)
    for layer in range(2):
        keys, values = cache.update(new[:, :, :1], -new[:, :, :1], layer)
        assert keys.shape == (2, 1, 6, 4)
        assert torch.equal(keys[0, :, :2], new[0])
        assert torch.equal(keys[1, :, 1:3], new[1])
        assert torch.equal(keys[[0, 1], :, [5, 4]], new[:, :, 0])
        assert torch.equal(values, -keys)


@pytest.mark.parametrize("static", [False, True])
def test_compiled_code_is_promised_the_address_of_the_very_tensors_that_it_writes_to(static):
    cache = RowCache(num_rows=1, length=2, num_layers=1, static=static)
    cache.prepare(slice(0, 1), torch.tensor([[0]]), num_keys=1)
    cache.update(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, 4), 0)
    for kept in (cache.layers[0].keys, cache.layers[0].values):
        assert hasattr(kept, "_dynamo_static_input_type") == static


@pytest.mark.parametrize("failing", range(6))
def test_rows_that_cannot_all_get_more_slots_stay_as_they_are(monkeypatch, failing):
    rows = RowCache(num_rows=2, length=3, num_layers=3, max_extra_rows=1)
    placement = rows.prepare(slice(0, 2), torch.tensor([[0, 1], [1, 2]]), num_keys=3)
    new = torch.randn(2, 1, 2, 4)
    before = [[states.clone() for states in rows.update(new + layer, -new, layer)] for layer in range(3)]
    pad, calls = cache.F.pad, []

    def failing_pad(*args):
        calls.append(args)
        if len(calls) == failing + 1:
            raise torch.OutOfMemoryError("full")
        return pad(*args)

    monkeypatch.setattr(cache.F, "pad", failing_pad)
    with pytest.raises(torch.OutOfMemoryError):
        rows.extend(6)
    rows.placement = placement
    for layer in range(3):
        for after, states in zip(rows.update(new + layer, -new, layer), before[layer], strict=True):
            assert torch.equal(after, states)
    rows.extend(6)
    assert [layer.get_seq_length() for layer in rows.layers] == [6] * 3


def test_a_cache_is_freed_with_its_last_use():
    cache = RowCache(num_rows=1, length=2, num_layers=2)
    cache.prepare(slice(0, 1), torch.tensor([[0]]), num_keys=1)
    for layer in range(2):
        cache.update(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, 4), layer)
    freed = weakref.ref(cache)
    del cache
    assert freed() is None
