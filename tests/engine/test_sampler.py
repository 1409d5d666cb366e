import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding import SPDDecoder, ThresholdDecoder, propose
from dmaxlit.decoding.base import BlockState, Sampling
from dmaxlit.engine import BlockDecoder, Sampler
from dmaxlit.engine.sampler import SamplerPerPrompt
from tests.engine.models import lively_denoiser, make_prompts

PROMPTS = make_prompts((3, 8, 25, 0, 17))


def state_with(sampling):
    ids = torch.zeros(sampling.draws.shape, dtype=torch.long)
    every = torch.ones_like(ids, dtype=torch.bool)
    return BlockState(ids, every, every, ids[:, 0], ~every[:, 0], sampling=sampling)


def splitmix(state):
    bits = 2**64 - 1
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & bits
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & bits
    return state ^ (state >> 31)


def test_draws_are_splitmix64_of_seed_prompt_and_position():
    from dmaxlit.randomness import stable_seed

    sampling = Sampler(1.0, seed=5).sampling([3, 8], [0, 32], 4, torch.device("cpu"))
    for row, (index, start) in enumerate([(3, 0), (8, 32)]):
        for t in range(4):
            key = stable_seed(5, "sample", index)
            state = (key + (start + t + 1) * 0x9E3779B97F4A7C15) % 2**64
            assert sampling.draws[row, t].item() == (splitmix(state) >> 40) / 2**24


def test_draws_are_uniform():
    draws = Sampler(1.0).sampling(list(range(200)), [0] * 200, 500, torch.device("cpu")).draws
    assert ((draws >= 0) & (draws < 1)).all()
    counts = torch.histc(draws, 50, 0, 1) / draws.numel()
    assert (counts - 0.02).abs().max() < 0.002  # 4.5 standard deviations


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.8), (1.0, 0.05)])
def test_tokens_are_distributed_as_the_tempered_nucleus(temperature, top_p):
    logits = torch.tensor([2.0, -torch.inf, 0.5, 1.5, -1.0])
    probability = (logits / temperature).softmax(0)
    order = probability.argsort(descending=True)
    kept, total = torch.zeros(5), 0.0
    for token in order.tolist():
        if total < top_p:
            kept[token] = probability[token]
        total += float(probability[token])
    expected = kept / kept.sum()

    number = 40_000
    draws = (torch.arange(number) + 0.5) / number
    sampling = Sampling(draws[None], torch.tensor([temperature]), torch.tensor([top_p]))
    proposal = propose(state_with(sampling), logits.expand(1, number, 5))
    shares = torch.bincount(proposal.tokens[0], minlength=5) / number
    torch.testing.assert_close(shares, expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(proposal.confidence[0], logits.softmax(0)[proposal.tokens[0]])


def test_the_highest_draw_gives_a_possible_token():
    generator = torch.Generator().manual_seed(0)
    for vocab in (38, 1000, 8192):
        logits = torch.randn(1, 200, vocab, generator=generator)
        logits[..., 7] = -torch.inf
        highest = torch.full((1, 200), 1 - 2**-24)
        for temperature in (1e-6, 1.0, 1e4):
            sampling = Sampling(highest, torch.tensor([temperature]), torch.ones(1))
            assert not (propose(state_with(sampling), logits).tokens == 7).any()


def test_a_row_has_a_temperature_of_its_own():
    sampling = Sampling(torch.full((2, 1), 0.9), torch.tensor([0.01, 5.0]), torch.ones(2))
    tokens = propose(state_with(sampling), torch.tensor([[[0.0, 1.0, 0.5]]]).expand(2, 1, 3)).tokens
    assert tokens.tolist() == [[1], [0]]


@pytest.mark.parametrize(
    "decoder", [ThresholdDecoder(0.5), SPDDecoder(), SPDDecoder(top_k=2)], ids=["thr", "spd", "k2"]
)
def test_samples_do_not_depend_on_the_batch_but_on_the_seed(decoder):
    denoiser = lively_denoiser()

    def decode(seed, **options):
        sampler = Sampler(1.5, 0.95, seed)
        return BlockDecoder(denoiser, decoder, sampler=sampler, **options).decode(PROMPTS, 20)

    first = decode(0)
    assert first == decode(0, batch_size=2) == decode(0, batch_size=1, use_cache=False)
    assert first != decode(1)
    assert first != BlockDecoder(denoiser, decoder).decode(PROMPTS, 20)


def test_equal_prompts_get_samples_of_their_own():
    rows = BlockDecoder(lively_denoiser(), ThresholdDecoder(0.5), sampler=Sampler(2.0)).decode([PROMPTS[0]] * 4, 20)
    assert len({tuple(row.token_ids) for row in rows}) == 4


def test_nearly_no_temperature_is_greedy():
    denoiser = lively_denoiser()
    greedy = BlockDecoder(denoiser, SPDDecoder()).decode(PROMPTS, 20)
    for sampler in (Sampler(1e-4), Sampler(1.0, top_p=1e-6), Sampler(1.0, top_p=1e-50), Sampler(0.0, seed=9)):
        assert BlockDecoder(denoiser, SPDDecoder(), sampler=sampler).decode(PROMPTS, 20) == greedy


def test_a_decoder_that_makes_its_states_from_nothing_goes_on_sampling():
    class Own(ThresholdDecoder):
        def step(self, state, logits, special):
            after = super().step(state, logits, special)
            return BlockState(after.ids, after.editable, after.masked, after.step, after.converged)

    denoiser = lively_denoiser()

    def decode(decoder):
        return BlockDecoder(denoiser, decoder, batch_size=2, sampler=Sampler(1.5)).decode(PROMPTS, 20)

    assert decode(Own(0.5)) == decode(ThresholdDecoder(0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature: expected a number from 0 to 10000, got -1.0"),
        ({"temperature": float("inf")}, "temperature: expected a number from 0 to 10000, got inf"),
        ({"temperature": float("nan")}, "temperature: expected a number from 0 to 10000, got nan"),
        ({"temperature": 1e-39}, "temperature: expected 0 or a number from 1e-06, got 1e-39"),
        ({"top_p": 0.0}, "top_p: expected a number above 0 and at most 1, got 0.0"),
        ({"top_p": 1.1}, "top_p: expected a number above 0 and at most 1, got 1.1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Sampler(**options)


def test_each_prompt_may_have_a_sampler_of_its_own():
    samplers = {5: Sampler(0.7, 0.9, seed=3), 9: Sampler(1.5, 1.0, seed=4)}
    joint = SamplerPerPrompt(samplers).sampling([9, 5, 9], [8, 0, 16], 4, torch.device("cpu"))
    assert joint is not None
    assert joint.temperature.tolist() == pytest.approx([1.5, 0.7, 1.5])
    assert joint.top_p.tolist() == pytest.approx([1.0, 0.9, 1.0])
    for row, (index, start) in enumerate([(9, 8), (5, 0), (9, 16)]):
        alone = samplers[index].sampling([0], [start], 4, torch.device("cpu"))
        assert torch.equal(joint.draws[row], alone.draws[0])
    assert SamplerPerPrompt({1: Sampler()}).sampling([1], [0], 4, torch.device("cpu")) is None
