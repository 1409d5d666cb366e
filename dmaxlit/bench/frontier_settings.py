"""What the benchmark of the frontier compares: tasks with a base model, ways of training, and ways of decoding."""

from dataclasses import dataclass, field, replace
from typing import Any

from dmaxlit.bench.studies import Method
from dmaxlit.evaluation.evaluate import DecoderSpec


@dataclass(frozen=True)
class Setting:
    """Prompts of the chain task, and the base model that answers them.

    Args:
        task_options: Options of the task.
        base_options: Options of ``dmaxlit fit`` with which ``pretrain.yaml`` continues the shipped model to the base.
            Empty: the base is the shipped model.
        base_steps: Steps of that.
    """

    task_options: dict[str, Any] = field(default_factory=dict)
    base_options: tuple[str, ...] = ()
    base_steps: int = 0


@dataclass(frozen=True)
class TrainedMethod(Method):
    """How a model is trained.

    Args:
        start: The model that training starts from: ``base``, or another method with the same seed.
        share: Its steps, as a share of those of on-policy training.
    """

    start: str = "base"
    share: float = 1.0


#: ``standard``: answers of 66 tokens in blocks of 32, two or three of them. ``long``: 90 tokens in six blocks of 16.
SETTINGS: dict[str, Setting] = {
    "standard": Setting(),
    "long": Setting({"difficulty": "hard"}, ("--model.backbone.block_length=16",), 1000),
}

#: The ways of training, beside the base itself. Those that go on from a trained model have a control: on-policy
#: training for more steps than they have had in all.
FRONTIER_METHODS: dict[str, TrainedMethod] = {
    "on_policy": TrainedMethod("quickstart.yaml"),
    "on_policy longer": TrainedMethod("quickstart.yaml", share=1.5),
    "multi_block": TrainedMethod("multi_block.yaml"),
    "on_policy + mmd": TrainedMethod("mmd.yaml", start="on_policy", share=0.25),
    "on_policy + tsd": TrainedMethod("tsd.yaml", start="on_policy", share=0.25),
    "multi_block + mmd": TrainedMethod("mmd.yaml", start="multi_block", share=0.25),
}


def _spd(tau: float, *window: Any, **options: Any) -> DecoderSpec:
    return _in_window(DecoderSpec("spd", {"tau_dec": tau}, f"SPD {tau:g}"), *window, **options)


def _in_window(spec: DecoderSpec, window: int = 1, admission: str = "progress", **options: Any) -> DecoderSpec:
    """Return a way of decoding in a window of blocks, with options of the admission policy, which the label names."""
    if window == 1:
        return spec
    changes = (f"{name} {value}" for name, value in options.items())
    label = ", ".join([f"{spec.label}, window {window} {admission}", *changes])
    return replace(spec, label=label, window=window, admission=admission, admission_options=options)


def _acceptance(tau: float, label: str, **options: Any) -> DecoderSpec:
    """Return SPD in a window with another rule of convergence."""
    return DecoderSpec("spd", {"tau_dec": tau, **options}, f"SPD {tau:g}, window 2 progress, {label}", window=2)


def _edit(*window: Any, **options: Any) -> DecoderSpec:
    """Return the rule with hard tokens."""
    return _in_window(DecoderSpec("edit", {"preset": "speed"}, "edit speed"), *window, **options)


#: The method and the decoder that all rows are compared with: DMax as published, with the threshold of its quick start.
REFERENCE = ("on_policy", _spd(0.0))

_POLICIES = ("progress", "multi_bd", "converging", "restarting")
_THRESHOLD = DecoderSpec("threshold", {"threshold": 0.95}, "threshold 0.95")
_ONE_BLOCK = (_THRESHOLD, *(_spd(tau) for tau in (0.5, 0.0)))
_MAIN = (
    *_ONE_BLOCK,
    *(_spd(tau, 2, policy) for policy in _POLICIES for tau in (0.5, 0.0)),
    _edit(),
    _edit(2, "multi_bd"),
    _edit(2, "multi_bd", keeps_closed=True),  # the published "DMax + MultiBD"
    _edit(2, "restarting"),
)
_WINDOW = (
    _spd(0.5),
    _spd(0.0),
    *(_spd(0.0, size, policy) for policy in ("progress", "converging") for size in (2, 3)),
    _spd(0.0, 3, "restarting"),
    *(_spd(0.0, 2, "restarting", tau_restart=share) for share in (0.0, 0.0625, 0.125, 0.25, 1.0)),
    *(_spd(0.0, 2, "multi_bd", tau_add=0.5, tau_stable=share) for share in (0.9, 1.0)),
    *(_spd(0.5, 2, "progress", theta=theta) for theta in (0.2, 0.9)),
    *(_spd(tau, 2, "converging") for tau in (0.3, 0.7)),
    _acceptance(0.0, "consistency only", stop_on_confidence=False),
    _acceptance(0.0, "tau_acc 0.99", tau_acc=0.99),
    _acceptance(0.0, "hard tokens", soft=False),
)


@dataclass(frozen=True)
class FrontierStudy:
    """A table of the benchmark.

    Args:
        methods: The models, ``base`` or keys of :data:`FRONTIER_METHODS`, in the order of the table.
        decoders: How each of them is decoded, in the order of the table.
        of_base: How the base is, which cannot revise: in most of the ways above it would run to the limits.
    """

    methods: tuple[str, ...]
    decoders: tuple[DecoderSpec, ...]
    of_base: tuple[DecoderSpec, ...] = (DecoderSpec("one_token", label="one token per forward"), *_ONE_BLOCK)

    def decoders_of(self, method: str) -> tuple[DecoderSpec, ...]:
        """Return how a model is decoded."""
        return self.of_base if method == "base" else self.decoders


#: ``methods``: every way of training with every way of decoding, but for the base. ``window``: what a window of blocks
#: gains and loses, by its size, its gate and the decoder's thresholds, one of them changed at a time.
STUDIES: dict[str, FrontierStudy] = {
    "methods": FrontierStudy(("base", *FRONTIER_METHODS), _MAIN),
    "window": FrontierStudy(("on_policy", "multi_block"), _WINDOW),
}
