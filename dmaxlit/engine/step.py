"""The step of a decoder, with the auxiliary model of the denoiser if the decoder asks one."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from dmaxlit.backbone.denoiser import Denoiser
from dmaxlit.decoding.base import DECODERS, BlockState, Decoder
from dmaxlit.decoding.joint import JointDecoder, check_span_length
from dmaxlit.errors import UserError
from dmaxlit.tokens import SpecialTokens


def step_of(decoder: Decoder, denoiser: Denoiser) -> Callable[[BlockState, Tensor, SpecialTokens], BlockState]:
    """Return what takes a step from a state and logits: ``decoder.step``, or that of a joint decoder.

    Raises:
        UserError: If a joint decoder's denoiser has no auxiliary model, or one whose spans do not fill a block.
    """
    if not isinstance(decoder, JointDecoder):
        return decoder.step
    if denoiser.auxiliary is None:
        name = DECODERS.name_of(type(decoder)) or type(decoder).__name__
        raise UserError(
            f"decoder {name}: expected a model with an auxiliary model (a folder auxiliary/ in its export), got none; "
            "model.auxiliary trains one"
        )
    check_span_length(denoiser.auxiliary.span_length, denoiser.block_length)
    return partial(decoder.step_jointly, joint=denoiser.auxiliary)
