"""The tables of the DMax paper in small: the models, and how each table decodes them."""

from dataclasses import dataclass
from typing import Any

from dmaxlit.bench.paired_table import Row
from dmaxlit.evaluation.evaluate import DecoderSpec


@dataclass(frozen=True)
class NoiseMethod:
    """How a model is trained: by the recipe of its task, with another noise.

    Args:
        recipe: File of ``configs/`` whose noise it is; None for that of the task's recipe.
        share: Training steps, as a share of those of the task's recipe, so that all methods cost the same.
        same_level: Whether the noise level is that of the task's recipe, not of the other one.
    """

    recipe: str | None
    share: float = 1.0
    same_level: bool = False


#: The ways of training. Steps of two passes (clean and masked) are half as many again as OPUT's, which have three; of
#: two alternating ones, one has two passes and the other, whose masked view needs no gradients, two and a third.
TABLE_METHODS: dict[str, NoiseMethod] = {
    "control": NoiseMethod("control.yaml", 1.5),
    "complementary": NoiseMethod("complementary.yaml"),
    "confidence": NoiseMethod("confidence.yaml", 1.5),
    "editing": NoiseMethod("editing.yaml"),
    "uniform": NoiseMethod("uniform.yaml", same_level=True),
    "on_policy": NoiseMethod(None),
    "fixed_level": NoiseMethod("quickstart.yaml"),
    "argmax_rollout": NoiseMethod("argmax_rollout.yaml"),
    "alternating": NoiseMethod("alternating.yaml", 1.4),
}

#: Options of the test prompts that are decoded apart, by task and by the name of the wording.
WORDINGS: dict[str, dict[str, dict[str, Any]]] = {
    "stories": {"question last": {"question": "last"}, "question first": {"question": "first"}},
    "programs": {"": {}},
}


@dataclass(frozen=True)
class PaperTable:
    """A table.

    Args:
        rows: Its rows, in order.
        reference: The row that the others are compared with.
    """

    rows: tuple[Row, ...]
    reference: Row


def _threshold(method: str, *thresholds: float) -> list[Row]:
    return [(method, DecoderSpec("threshold", {"threshold": t}, f"threshold {t:g}")) for t in thresholds]


def _hierarchical(method: str, *thresholds: float) -> list[Row]:
    return [
        (method, DecoderSpec("hierarchical", {"tau_low": t}, f"hierarchical {t:g}", sweep="tau_low"))
        for t in thresholds
    ]


def _spd(method: str, *taus: float, label: str = "SPD {}", **options: bool) -> list[Row]:
    return [(method, DecoderSpec("spd", {"tau_dec": tau, **options}, label.format(f"{tau:g}"))) for tau in taus]


def _hard(method: str, *taus: float) -> list[Row]:
    return _spd(method, *taus, label="hard tokens {}", soft=False)


def _training(method: str) -> list[Row]:
    return [*_threshold(method, 0.95), *_hard(method, 0.5), *_spd(method, 0.5, 0.0)]


_PRESET = {"preset": "speed"}
#: The row that speeds are related to.
BASE: Row = _threshold("base", 0.95)[0]
_ONE_TOKEN: Row = ("base", DecoderSpec("one_token", label="one token per forward"))
_START = (_ONE_TOKEN, BASE)
_CONTROL = (*_threshold("control", 0.95, 0.5), *_spd("control", 0.5, 0.0))
_DMAX: Row = _spd("on_policy", 0.5)[0]
_TAUS = (0.95, 0.5, 0.0)
_FAST = (0.7, 0.5, 0.3, 0.0)
_STOPPING: tuple[dict[str, Any], ...] = (
    {},
    {"label": "SPD {}, consistency only", "stop_on_confidence": False},
    {"label": "SPD {}, confidence only", "stop_on_consistency": False},
)

#: Tables 1 to 4 of the paper are ``methods``, ``low_parallelism``, ``ablation`` and ``stopping``; each begins with the
#: base decoded one token at a time and has masked training on the same corpus.
TABLES: dict[str, PaperTable] = {
    "methods": PaperTable(
        (
            *_START,
            *_threshold("base", 0.7, 0.5),
            *_hierarchical("base", 0.6, 0.4),
            *_threshold("control", 0.95, 0.7, 0.5),
            *_hierarchical("control", 0.6, 0.4),
            ("control", DecoderSpec("psd", label="psd, 3 drafts")),
            *_threshold("confidence", 0.95, 0.7, 0.5),
            ("uniform", DecoderSpec("uniform", label="uniform")),
            *_spd("uniform", *_TAUS),
            *_threshold("fixed_level", 0.95),
            *_spd("fixed_level", *_TAUS),
            *_threshold("on_policy", 0.95),
            *_spd("on_policy", *_TAUS),
        ),
        BASE,
    ),
    "low_parallelism": PaperTable(
        (
            *_START,
            *_threshold("control", 0.95),
            ("on_policy", _ONE_TOKEN[1]),
            *_threshold("on_policy", 0.95),
            *_spd("on_policy", 0.95, 0.99, 1.0),
        ),
        BASE,
    ),
    "ablation": PaperTable(
        (
            *_START,
            *_threshold("base", 0.5, 0.0),
            *_spd("base", *_TAUS),
            *_threshold("control", *_TAUS),
            *_spd("control", *_TAUS),
            *_threshold("on_policy", *_TAUS),
            *_spd("on_policy", *_TAUS, label="hard tokens {}, not contiguous", soft=False, contiguous=False),
            *_hard("on_policy", *_TAUS),
            *_spd("on_policy", *_TAUS),
        ),
        BASE,
    ),
    "stopping": PaperTable(
        (*_START, *_CONTROL, *(row for rule in _STOPPING for row in _spd("on_policy", 0.5, 0.0, **rule))), _DMAX
    ),
    "curves": PaperTable(
        (
            *_START,
            *_threshold("base", *_FAST),
            *_threshold("control", 0.95, *_FAST),
            *_spd("uniform", 0.95, *_FAST),
            *_hard("on_policy", 0.95, *_FAST),
            *_spd("on_policy", 0.95, *_FAST),
        ),
        BASE,
    ),
    "training": PaperTable(
        (
            *_START,
            *(row for method in TABLE_METHODS for row in _training(method)),
            *((method, DecoderSpec("edit", _PRESET, "edit speed")) for method in ("editing", "on_policy")),
        ),
        _DMAX,
    ),
}
