"""Estimate what GPUs exchange in training, and how long it takes beside computing, from shapes and stated speeds.

What FSDP2 gathers and reduces is counted in ``tests/training/test_communication_plan.py``: in each micro-batch a layer
is gathered for every forward and every backward pass, recomputed or not, the root (embeddings, last norm, head) once;
gradients are reduced once, after the last backward pass. DDP reduces the gradients of an update once.
"""

from dataclasses import dataclass

from torch import nn

from dmaxlit.backbone.hidden_matrices import expert_modules
from dmaxlit.backbone.transformers_internals import decoder_layers
from dmaxlit.training.activation_memory import has_cache, trained_passes
from dmaxlit.training.memory_scenario import MemoryScenario
from dmaxlit.training.optimizer_memory import bytes_of


@dataclass(frozen=True)
class Speeds:
    """What GPUs and their links reach in practice.

    Args:
        flops: Operations per second of a GPU's matrix products.
        link: Bytes per second that a GPU receives from others of its node.
        network: Bytes per second that all GPUs of a node together receive from other nodes.
        gpus_per_node: GPUs of a node.
    """

    flops: float
    link: float
    network: float
    gpus_per_node: int

    def bandwidth(self, gpus: int) -> float:
        """Return the bytes per second of a collective over all GPUs, for each of them.

        In a ring every GPU receives all that its neighbour sends, and so does every node: what one GPU receives is what
        passes a node's network once.
        """
        return self.link if gpus <= self.gpus_per_node else min(self.link, self.network)


def received_bytes(scenario: MemoryScenario) -> float:
    """Return the bytes that a GPU receives in a micro-batch that ends in an update."""
    if scenario.gpus == 1:
        return 0.0
    share = (scenario.gpus - 1) / scenario.gpus
    trained = [p for p in [*scenario.model.parameters(), *scenario.extra] if p.requires_grad]
    if not scenario.sharded:
        return 2 * share * bytes_of(trained)  # reduced in parts, which are then gathered
    width = scenario.compute_dtype.itemsize
    count = sum(p.numel() for p in scenario.model.parameters())
    layers = sum(p.numel() for layer in decoder_layers(scenario.model) for p in layer.parameters())
    gathered = (count - layers + layer_gathers(scenario) * layers) * width
    reduced = 4 * sum(p.numel() for p in trained) if scenario.casts_weights else bytes_of(trained)
    return share * (gathered + reduced)


def layer_gathers(scenario: MemoryScenario) -> int:
    """Return how often FSDP2 gathers each layer in a micro-batch."""
    return 2 * trained_passes(scenario) + scenario.rollout_forwards


def operations(scenario: MemoryScenario) -> float:
    """Return the operations of a GPU's matrix products with weights in a micro-batch, of experts those that are used.

    Attention scores, embeddings and the optimiser are left out.
    """
    layers = decoder_layers(scenario.model)
    used, trained = (sum(_used(scenario, layer, of_all) for layer in layers) for of_all in (True, False))
    head = scenario.model.get_output_embeddings().weight
    head_factor = scenario.views * (2 + head.requires_grad) + scenario.rollout_forwards
    passes = trained_passes(scenario)
    width = 2 if scenario.clean_copy and not has_cache(scenario) else 1  # a view with its clean copy, or alone
    forwards = passes * (1 + scenario.checkpointing) + scenario.rollout_forwards
    weights = width * ((forwards + passes) * used + passes * trained) + head_factor * head.numel()
    return float(2 * scenario.rows * scenario.length * weights)


def _used(scenario: MemoryScenario, layer: nn.Module, of_all: bool) -> float:
    """Return how many of a layer's weights, or of those that are trained, a token is multiplied with."""

    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters() if of_all or parameter.requires_grad)

    chosen = getattr(scenario.model.config, "num_experts_per_tok", None)
    idle: list[float] = [count(experts) * (1 - chosen / number) for experts, number in expert_modules(layer) if chosen]
    return float(count(layer) - sum(idle))
