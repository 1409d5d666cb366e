"""What the self-correction benchmark trains, and the rows of its tables: which model is decoded how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["PRETRAIN", "STUDIES", "Method", "Row", "Study"]

#: The recipe that makes a base beside the shipped one; its number is its seed.
PRETRAIN = "pretrain_curriculum.yaml"


@dataclass(frozen=True)
class Method:
    """A way of training a model from a base.

    Args:
        recipe: File of ``configs/``.
        overrides: Settings that differ from it, as flags of ``dmaxlit fit``.
    """

    recipe: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        method: Which model: ``base`` or a method of the study.
        label: How the line names its decoder.
        decoder: Registered name of the decoder.
        options: The decoder's options.
    """

    method: str
    label: str
    decoder: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Unique name of the row."""
        return f"{self.method} / {self.label}"


@dataclass(frozen=True)
class Study:
    """Models that are compared.

    Args:
        methods: How they are trained, by name.
        rows: How they and the bases are decoded, in the table's order.
    """

    methods: dict[str, Method]
    rows: tuple[Row, ...]


def _threshold(method: str, *thresholds: float) -> list[Row]:
    return [Row(method, f"threshold {t:g}", "threshold", {"threshold": t}) for t in thresholds]


def _spd(method: str, *taus: float) -> list[Row]:
    return [Row(method, f"SPD {tau:g}", "spd", {"tau_dec": tau}) for tau in taus]


def _hard(method: str, *taus: float) -> list[Row]:
    return [Row(method, f"hard tokens {tau:g}", "spd", {"tau_dec": tau, "soft": False}) for tau in taus]


_METHODS = Study(
    {
        "control": Method("control.yaml"),
        "uniform": Method("uniform.yaml"),
        "on_policy": Method("quickstart.yaml"),
    },
    (
        Row("base", "one token per forward", "one_token"),
        *_threshold("base", 0.95, 0.5, 0.0),
        *_spd("base", 0.5, 0.0),
        *_threshold("control", 0.95, 0.5),
        *_spd("control", 0.5, 0.0),
        Row("uniform", "uniform", "uniform"),
        *_spd("uniform", 0.5, 0.0),
        *_threshold("on_policy", 0.95),
        *_hard("on_policy", 0.5, 0.0),
        Row("on_policy", "not contiguous 0.5", "spd", {"tau_dec": 0.5, "contiguous": False}),
        *_spd("on_policy", 0.95, 0.5, 0.0),
        Row("on_policy", "SPD 0.5, consistency only", "spd", {"tau_dec": 0.5, "stop_on_confidence": False}),
        Row("on_policy", "SPD 0.5, confidence only", "spd", {"tau_dec": 0.5, "stop_on_consistency": False}),
    ),
)


def _rate(muon: float, adamw: float) -> tuple[str, ...]:
    return f"--model.optimizer.lr={muon}", f"--model.optimizer.adamw_lr={adamw}"


def _steps(steps: int) -> tuple[str, ...]:
    return f"--trainer.max_steps={steps}", f"--model.lr_scheduler.init_args.T_max={steps}"


_VARIANTS = {
    "quickstart": Method("quickstart.yaml"),
    "rate over 8": Method("quickstart.yaml", _rate(0.005, 0.00075)),
    "rate over 2": Method("quickstart.yaml", _rate(0.02, 0.003)),
    "200 steps": Method("quickstart.yaml", _steps(200)),
    "level 0.5": Method("quickstart.yaml", ("--model.noise.level=0.5",)),
    "argmax rollout": Method("argmax_rollout.yaml"),
    "alternating views": Method("alternating.yaml"),
}
_DEPENDENCE = Study(
    _VARIANTS,
    tuple(
        row for name in _VARIANTS for row in (*_threshold(name, 0.95), *_spd(name, 0.5, 0.0), *_hard(name, 0.5, 0.0))
    ),
)


def _ways(names: Mapping[str, Method]) -> Study:
    rows = (row for name in names for row in (*_threshold(name, 0.95), *_hard(name, 0.5), *_spd(name, 0.5, 0.0)))
    return Study(dict(names), tuple(rows))


_SOFT, _ROLLOUT = "soft_on_policy.yaml", "rollout_k.yaml"
_NO_TRUTH = ("--model.noise.clean_fraction=0",)
_STRATEGIES = _ways(
    {"on_policy": Method("quickstart.yaml"), "soft_on_policy": Method(_SOFT), "rollout_k": Method(_ROLLOUT)}
)
_TRUTH = _ways(
    {
        "soft_on_policy": Method(_SOFT),
        "soft_on_policy, no truth": Method(_SOFT, _NO_TRUTH),
        "rollout_k": Method(_ROLLOUT),
        "rollout_k, no truth": Method(_ROLLOUT, _NO_TRUTH),
    }
)

#: ``methods``: base, control, uniform and on-policy training. ``dependence``: what the effect depends on.
#: ``strategies``: ways of showing a model its own errors, at the same compute. ``truth``: with clean tokens among its
#: guesses, and without.
STUDIES: dict[str, Study] = {
    "methods": _METHODS,
    "dependence": _DEPENDENCE,
    "strategies": _STRATEGIES,
    "truth": _TRUTH,
}
