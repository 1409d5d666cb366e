"""Properties of every noise strategy."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dmaxlit.noise import NoiseStrategy, View
from dmaxlit.testing.dialogues import SPECIAL, InChunks, Rows, difference, make_rows, rows_of, turns_of, views_of
from dmaxlit.testing.noise_factory import NoiseFactory
from dmaxlit.testing.noise_levels import LEVEL_PROPERTIES
from dmaxlit.testing.property import Property, changed_generator, expect, seed_global_generators
from dmaxlit.training.losses import view_loss
from dmaxlit.training.view_checks import ViewChecks
from dmaxlit.training.view_rules import VIEW_RULES, ViewRule

_LEVELS = (0.0, 0.5, 1.0)


def noise_properties(noise: str | type[NoiseStrategy], /, **options: Any) -> list[Property]:
    """Return what holds for every noise strategy, to be tested one by one.

    ``@pytest.mark.parametrize("check", noise_properties(MyNoise), ids=str)``. A class without an option ``level`` has
    fewer properties.

    Args:
        noise: Registered name, import path or class.
        options: Options of its constructor.

    Raises:
        UserError: If there is no such class, or it is abstract; for an unknown option, or one of the wrong type or out
            of range.
    """
    factory = NoiseFactory(noise, options)
    checks: dict[str, Callable[[NoiseFactory], None]] = {
        "views is a generator": _is_generator,
        "views have the right types and shapes": _has_right_types,
        **{rule.name: partial(_keeps_rule, rule) for rule in VIEW_RULES},
        "is_masked names every mask": _names_every_mask,
        "view names differ": _names_differ,
        "something is supervised": _supervises,
        "weights are finite and at least 0": _weights_are_finite,
        "objectives are sums over chunks, which may be empty": _sums_over_chunks,
        "the number of views does not depend on the data": _has_fixed_number,
        "predictions are used without gradients": _uses_no_gradients,
        "views are the same where predictions come in chunks": _maps_chunks,
        "rows do not depend on the padding": _ignores_padding,
        "rows do not depend on other rows": _ignores_other_rows,
        "the same seed gives the same views": _repeats,
        "global random generators are not used": _leaves_global_generators,
    }
    if factory.takes_level:
        checks |= LEVEL_PROPERTIES
    return [Property(name, partial(check, factory)) for name, check in checks.items()]


def _is_generator(factory: NoiseFactory) -> None:
    strategy, rows = factory.make(), make_rows()
    ViewChecks(strategy, enabled=False).begin(strategy.views(rows.clean, rows.generator()), rows.clean).close()


def _has_right_types(factory: NoiseFactory) -> None:
    for strategy in factory.at_levels(*_LEVELS):
        ViewChecks(strategy, enabled=False).end(len(views_of(strategy, make_rows())))


def _keeps_rule(rule: ViewRule, factory: NoiseFactory) -> None:
    for strategy in factory.at_levels(*_LEVELS):
        rows = make_rows()
        ids = rows.clean.ids.clone()
        for view in views_of(strategy, rows):
            broken = rule.broken(view, rows.clean, ids)
            text = rule.text.format(last_id=SPECIAL.vocab_size - 1)
            expect(broken is None or not broken.any(), f"expected view {view.name!r} {text}")


def _names_every_mask(factory: NoiseFactory) -> None:
    for strategy in factory.at_levels(*_LEVELS):
        rows = make_rows()
        for view in views_of(strategy, rows):
            masks = (view.ids == SPECIAL.mask_id) & rows.clean.response
            unnamed = masks if view.is_masked is None else masks & ~view.is_masked
            expect(
                not unnamed.any(),
                f"expected is_masked of view {view.name!r} to be True wherever it holds the mask token, but "
                f"{int(unnamed.sum())} masks are not named; pass is_masked to View",
            )


def _names_differ(factory: NoiseFactory) -> None:
    names = [view.name for view in views_of(factory.make(), make_rows()) if view.requires_grad]
    for name in names:
        expect(names.count(name) == 1, f"expected a name of its own for each view that has a loss, got {name!r} twice")


def _supervises(factory: NoiseFactory) -> None:
    (strategy,) = factory.at_levels(0.5)
    views = views_of(strategy, make_rows())
    expect(
        any(view.requires_grad and view.supervised.any() for view in views),
        "expected a view of a weight above 0 that supervises some positions, got none: nothing would be learnt",
    )


def _weights_are_finite(factory: NoiseFactory) -> None:
    for strategy in factory.at_levels(*_LEVELS):
        for view in views_of(strategy, make_rows()):
            weights = _weights(view)
            expect(
                (weights.isfinite() & (weights >= 0)).all(),
                f"expected finite weights of at least 0 at the supervised positions of view {view.name!r}, got others",
            )


def _weights(view: View) -> Tensor:
    weight = view.weight
    return weight[view.supervised] if isinstance(weight, Tensor) else torch.tensor([float(weight)])


def _sums_over_chunks(factory: NoiseFactory) -> None:
    (strategy,) = factory.at_levels(0.5)
    rows, checks = make_rows(), ViewChecks(factory.make(), enabled=False)
    for view, prediction in turns_of(strategy, rows):
        count = int(view.supervised.sum())
        sums = [
            view_loss(view, InChunks(prediction, *ends), rows.clean, checks.check_value).total.detach()
            for ends in ((count,), (0, count), (count // 3, count))
        ]
        expect(
            all(torch.allclose(value, sums[0], rtol=1e-4, atol=1e-4) for value in sums),
            f"expected objectives of view {view.name!r} to return sums over positions, but the same positions give "
            "{:.4g} at once, {:.4g} with an empty chunk and {:.4g} in two chunks; ".format(*map(float, sums))
            + "return a sum, not a mean",
        )


def _has_fixed_number(factory: NoiseFactory) -> None:
    (strategy,) = factory.at_levels(0.5)
    rows = make_rows()
    right = rows.logits.clamp(max=-30.0).scatter(-1, rows.clean.ids.unsqueeze(-1), 30.0)
    batches = [rows, Rows(rows.clean, rows.keys, rows.num_rows, right), make_rows((0,), (1,)), make_rows((7,), (1,))]
    numbers = [len(views_of(strategy, batch, batch.generator(seed))) for batch in batches for seed in range(3)]
    expect(
        len(set(numbers)) == 1,
        f"expected as many views for every batch, got {min(numbers)} and {max(numbers)}: training on several GPUs "
        "would hang",
    )


def _uses_no_gradients(factory: NoiseFactory) -> None:
    (strategy,) = factory.at_levels(0.5)
    for view in views_of(strategy, make_rows(), require_grad=True):
        soft = () if view.soft is None else (view.soft.weights,)
        objectives = (value for objective in view.objectives for value in getattr(objective, "__dict__", {}).values())
        tensors = (*soft, *objectives, view.weight, view.level)
        expect(
            not any(isinstance(tensor, Tensor) and tensor.requires_grad for tensor in tensors),
            f"expected view {view.name!r} to carry no gradients of an earlier prediction, but it does; take what "
            "becomes input from prediction.map, or detach it",
        )


def _maps_chunks(factory: NoiseFactory) -> None:
    whole, parts = (views_of(factory.at_levels(0.5)[0], make_rows(), in_chunks=chunked) for chunked in (False, True))
    changed = difference(whole, parts)
    expect(
        changed is None,
        f"expected the same views where the logits come in chunks of positions, but {changed} differs; a function that "
        "prediction.map is given receives some positions, and must not reduce over them",
    )


def _ignores_padding(factory: NoiseFactory) -> None:
    for strategy in factory.at_levels(0.5, 1.0):
        rows = make_rows()
        short, long = (rows.select([0], length) for length in (16, 40))
        changed = difference(views_of(strategy, short), views_of(strategy, long))
        expect(
            changed is None,
            f"expected the same views whatever the length that a row is padded to, but {changed} differs; count "
            "positions of clean.response, not of the batch, and draw with generator.rand",
        )


def _ignores_other_rows(factory: NoiseFactory) -> None:
    for strategy in factory.at_levels(0.5, 1.0):
        rows = make_rows()
        order = [2, 0, 3, 1]
        together = views_of(strategy, rows)
        moved = rows.select(order, rows.clean.ids.shape[1])
        changed = difference(rows_of(together, order), views_of(strategy, moved))
        for row in order:
            alone = rows.select([row], rows.clean.ids.shape[1])
            changed = changed or difference(rows_of(together, [row]), views_of(strategy, alone))
        expect(
            changed is None,
            f"expected the same views of a row in any batch, but {changed} differs; reduce over positions, not over "
            "rows, and draw with generator.rand, which has a stream for each row",
        )


def _repeats(factory: NoiseFactory) -> None:
    (strategy,) = factory.at_levels(0.5)
    views = []
    for seed in range(3):
        seed_global_generators(seed)
        views.append(views_of(strategy, make_rows()))
    changed = difference(views[0], views[1]) or difference(views[0], views[2])
    expect(
        changed is None,
        f"expected the same views whenever the generator has the same seed, but {changed} differs; draw all random "
        "numbers from generator, and keep no state between batches",
    )


def _leaves_global_generators(factory: NoiseFactory) -> None:
    (strategy,) = factory.at_levels(0.5)
    rows = make_rows()
    seed_global_generators(0)
    views_of(strategy, rows)
    name = changed_generator()
    expect(
        name is None,
        f"expected all random numbers to come from generator, but the global generator of {name} was used; a run "
        "would depend on what else uses it",
    )
