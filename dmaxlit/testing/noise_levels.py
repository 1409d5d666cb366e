"""Properties of noise strategies that take a level."""

from collections.abc import Callable
from dataclasses import replace

import torch

from dmaxlit.noise import NoiseStrategy
from dmaxlit.noise.schedules import AlphaSchedule, LevelCurriculum
from dmaxlit.testing.dialogues import Rows, difference, make_rows, views_of
from dmaxlit.testing.noise_factory import NoiseFactory
from dmaxlit.testing.property import expect

_HINT = "take the positions from self.corrupt or the level from self.level, or write an __init__ without level"


def _is_clean_at_zero(factory: NoiseFactory) -> None:
    cls, rows = factory.cls, make_rows()
    views = views_of(factory.make(level=0.0, **cls.level_only), rows)
    for number, view in enumerate(views if cls.exact_level else views[:1]):
        changed = (view.ids != rows.clean.ids) & rows.clean.response
        if view.soft is not None:
            changed = changed | (view.soft.where & rows.clean.response)
        hint = "set exact_level = False if only the first view is clean at level 0" if number else _HINT
        expect(
            not changed.any(),
            f"expected view {view.name!r} at level 0 to be the clean text, but {int(changed.sum())} tokens are not; "
            f"{hint}; options without which the level is the only corruption belong in level_only",
        )


def _corrupts_all_at_one(factory: NoiseFactory) -> None:
    share = _corrupted_share(factory.make(level=1.0, **factory.cls.level_only), make_rows())
    expect(  # a random token may be the clean one
        share >= 0.95,
        f"expected the first view at level 1 to corrupt every response token, but it corrupts {share:.0%}; {_HINT}",
    )


def _corrupts_as_much_as_the_level(factory: NoiseFactory) -> None:
    rows = _many_rows()
    for level in (0.25, 0.75):
        strategy = factory.make(level=level, **factory.cls.level_only)
        share, expected = _corrupted_share(strategy, rows), _noise_rate(strategy, level)
        expect(  # 12,096 draws: a standard deviation of 0.004
            abs(share - expected) < 0.03,
            f"expected the first view at level {level} to corrupt {expected:.0%} of the response, but it corrupts "
            f"{share:.0%}; {_HINT}",
        )


def _follows_the_step(factory: NoiseFactory) -> None:
    if not factory.takes_distribution:
        return
    rows = _many_rows()
    strategy = factory.make(level=LevelCurriculum({0: 0.25, 5: 0.75}), **factory.cls.level_only)
    for step, level in ((0, 0.25), (5, 0.75)):
        expected = _noise_rate(strategy, level)
        share = _corrupted_share(strategy, replace(rows, clean=replace(rows.clean, step=step)))
        expect(
            abs(share - expected) < 0.03,
            f"expected a curriculum's level at step {step} to corrupt {expected:.0%} of the response, but "
            f"{share:.0%} is corrupted; take the level from self.corrupt or self.level.at(clean.step)",
        )


def _draws_anew(factory: NoiseFactory) -> None:
    strategy = factory.make(level=(0.2, 0.9) if factory.takes_distribution else 0.5)
    rows = make_rows()
    one, other = (views_of(strategy, rows, rows.generator(seed)) for seed in range(2))
    expect(
        difference(one, other) is not None,
        "expected another seed of generator to give other views, got the same; draw from generator",
    )


LEVEL_PROPERTIES: dict[str, Callable[[NoiseFactory], None]] = {
    "level 0 is the clean text": _is_clean_at_zero,
    "level 1 corrupts every response token": _corrupts_all_at_one,
    "the corrupted share is the level": _corrupts_as_much_as_the_level,
    "levels follow the step": _follows_the_step,
    "another seed gives other views": _draws_anew,
}


def _many_rows() -> Rows:
    return make_rows((4,) * 48, (252,) * 48)


def _corrupted_share(strategy: NoiseStrategy, rows: Rows) -> float:
    """Return the share of the response tokens that differ in the first view."""
    first = views_of(strategy, rows)[0]
    return float((first.ids != rows.clean.ids)[rows.clean.response].float().mean())


def _noise_rate(strategy: NoiseStrategy, level: float) -> float:
    """Return the probability that a token is corrupted at a level."""
    schedule = getattr(strategy, "schedule", None)
    return float(schedule.noise_rate(torch.tensor(level))) if isinstance(schedule, AlphaSchedule) else level
