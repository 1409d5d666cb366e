"""The studies of the self-correction benchmark: the models that each trains, and the rows of its table."""

from collections.abc import Mapping
from dataclasses import dataclass

from dmaxlit.bench.command import step_options
from dmaxlit.bench.table_rows import TableRow

#: The recipe of the bases other than the shipped one. The number of a base is its seed.
PRETRAIN = "pretrain_curriculum.yaml"


@dataclass(frozen=True)
class Method:
    """How a model is trained from a base.

    Args:
        recipe: File of ``configs/``.
        overrides: Options of ``dmaxlit fit`` that override it.
    """

    recipe: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """A comparison of models.

    Args:
        methods: How each model is trained, by name.
        rows: How the models and the bases are decoded, in the order of the table.
    """

    methods: dict[str, Method]
    rows: tuple[TableRow, ...]


def _threshold(method: str, *thresholds: float) -> list[TableRow]:
    return [TableRow(method, f"threshold {t:g}", "threshold", {"threshold": t}) for t in thresholds]


def _hierarchical(method: str, *thresholds: float) -> list[TableRow]:
    return [TableRow(method, f"hierarchical {t:g}", "hierarchical", {"tau_low": t}) for t in thresholds]


def _psd(method: str) -> list[TableRow]:
    return [
        TableRow(method, "psd, 1 draft", "psd", {"depth": 1}),
        TableRow(method, "psd, 3 drafts", "psd", {"depth": 3}),
        TableRow(method, "psd 0.97, 3 drafts", "psd", {"depth": 3, "threshold": 0.97}),
    ]


def _spd(method: str, *taus: float) -> list[TableRow]:
    return [TableRow(method, f"SPD {tau:g}", "spd", {"tau_dec": tau}) for tau in taus]


def _hard(method: str, *taus: float) -> list[TableRow]:
    return [TableRow(method, f"hard tokens {tau:g}", "spd", {"tau_dec": tau, "soft": False}) for tau in taus]


_METHODS = Study(
    {
        "control": Method("control.yaml"),
        "uniform": Method("uniform.yaml"),
        "on_policy": Method("quickstart.yaml"),
    },
    (
        TableRow("base", "one token per forward", "one_token"),
        *_threshold("base", 0.95, 0.5, 0.0),
        *_spd("base", 0.5, 0.0),
        *_threshold("control", 0.95, 0.5),
        *_spd("control", 0.5, 0.0),
        TableRow("uniform", "uniform", "uniform"),
        *_spd("uniform", 0.5, 0.0),
        *_threshold("on_policy", 0.95),
        *_hard("on_policy", 0.5, 0.0),
        TableRow("on_policy", "not contiguous 0.5", "spd", {"tau_dec": 0.5, "contiguous": False}),
        *_spd("on_policy", 0.95, 0.5, 0.0),
        TableRow("on_policy", "SPD 0.5, consistency only", "spd", {"tau_dec": 0.5, "stop_on_confidence": False}),
        TableRow("on_policy", "SPD 0.5, confidence only", "spd", {"tau_dec": 0.5, "stop_on_consistency": False}),
    ),
)


def _rate(muon: float, adamw: float) -> tuple[str, ...]:
    return f"--model.optimizer.lr={muon}", f"--model.optimizer.adamw_lr={adamw}"


_VARIANTS = {
    "quickstart": Method("quickstart.yaml"),
    "rate over 8": Method("quickstart.yaml", _rate(0.005, 0.00075)),
    "rate over 2": Method("quickstart.yaml", _rate(0.02, 0.003)),
    "200 steps": Method("quickstart.yaml", step_options(200)),
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


def _comparison(names: Mapping[str, Method]) -> Study:
    rows = (row for name in names for row in (*_threshold(name, 0.95), *_hard(name, 0.5), *_spd(name, 0.5, 0.0)))
    return Study(dict(names), tuple(rows))


_SOFT, _ROLLOUT = "soft_on_policy.yaml", "rollout_k.yaml"
_NO_CLEAN_TOKENS = ("--model.noise.clean_fraction=0",)
_STRATEGIES = _comparison(
    {"on_policy": Method("quickstart.yaml"), "soft_on_policy": Method(_SOFT), "rollout_k": Method(_ROLLOUT)}
)
_TRUTH = _comparison(
    {
        "soft_on_policy": Method(_SOFT),
        "soft_on_policy, no truth": Method(_SOFT, _NO_CLEAN_TOKENS),
        "rollout_k": Method(_ROLLOUT),
        "rollout_k, no truth": Method(_ROLLOUT, _NO_CLEAN_TOKENS),
    }
)

_STAGES = "stage_consistency.yaml"


def _divergence(kind: str) -> Method:
    return Method(_STAGES, (f"--model.noise.divergence={kind}",))


_OF_TRAJECTORIES = {
    "control": _METHODS.methods["control"],
    "tsd": Method("tsd.yaml"),
    "stages, forward": _divergence("confident_forward"),
    "stages, reverse": _divergence("confident_reverse"),
    "stages, jsd": _divergence("jsd"),
    "stages, no tokens": Method(_STAGES, ("--model.noise.revealed_weight=0",)),
}
_TRAJECTORIES = Study(
    _OF_TRAJECTORIES,
    tuple(row for name in ("base", *_OF_TRAJECTORIES) for row in (*_threshold(name, 0.95, 0.8, 0.5), *_spd(name, 0.5))),
)

_CAREFUL = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
_WITHOUT_REVISION = Study(
    {"control": _METHODS.methods["control"], "on_policy": _METHODS.methods["on_policy"]},
    (
        TableRow("base", "one token per forward", "one_token"),
        *(
            row
            for method in ("base", "control")
            for row in (*_threshold(method, *_CAREFUL), *_hierarchical(method, 0.6, 0.4), *_psd(method))
        ),
        *_threshold("on_policy", 0.95),
        *_hierarchical("on_policy", 0.6),
        *_psd("on_policy"),
        *_spd("on_policy", 0.5, 0.0),
    ),
)

#: ``methods``: base, control, uniform and on-policy training. ``without_revision``: what rules that never revise reach
#: at the speed of those that do. ``dependence``: what the effect depends on.
#: ``strategies``: ways of showing a model its own errors, at the same compute. ``truth``: the same with and without
#: clean tokens among the model's guesses. ``trajectories``: learning from later states of the base's own decoding.
STUDIES: dict[str, Study] = {
    "methods": _METHODS,
    "without_revision": _WITHOUT_REVISION,
    "dependence": _DEPENDENCE,
    "strategies": _STRATEGIES,
    "truth": _TRUTH,
    "trajectories": _TRAJECTORIES,
}
