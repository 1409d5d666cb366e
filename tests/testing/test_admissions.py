"""Each property of an admission policy is broken by one policy below, and found."""

import pytest
import torch

from dmaxlit import UserError
from dmaxlit.decoding.admission import AdmissionPolicy, RestartingAdmission
from dmaxlit.testing import admission_properties
from tests.testing.broken import assert_found, failures


class Own(AdmissionPolicy):
    """Right, of which each below changes one thing."""

    def admit(self, before, after):
        return after.progress >= 0.5

    def restarts_behind(self, before, after):
        return ((after.ids != before.ids) & ~before.masked).any(1)


class FloatAnswer(Own):
    def admit(self, before, after):
        return after.progress


class OneForAll(Own):
    def restarts_behind(self, before, after):
        return super().restarts_behind(before, after).any()


class WritesBefore(Own):
    def restarts_behind(self, before, after):
        before.ids[:, 0] = 0
        return super().restarts_behind(before, after)


class WritesAfter(Own):
    def admit(self, before, after):
        after.masked.logical_not_()
        return ~after.masked.any(1)


class Remembers(Own):
    count = 0

    def admit(self, before, after):
        self.count += 1
        return after.progress * self.count >= 1


class Draws(Own):
    def admit(self, before, after):
        return torch.rand(len(after.ids)) < 0.5


class MeanOverRows(Own):
    def admit(self, before, after):
        return after.progress >= after.progress.mean()


class ReadsValue(Own):
    def admit(self, before, after):
        return torch.tensor([float(share) > 0.5 for share in after.progress])


BROKEN = {
    FloatAnswer: (
        "answers have the right types and shapes",
        "expected admit to return bool of shape [5], got float32 of",
    ),
    OneForAll: ("answers have the right types and shapes", "expected restarts_behind to return bool of shape [5], got"),
    WritesBefore: ("a policy leaves its arguments unchanged", "but it wrote to ids of before; use torch.where"),
    WritesAfter: ("a policy leaves its arguments unchanged", "but it wrote to masked of after"),
    Remembers: ("the same blocks get the same answers", "but that of admit differs; keep nothing from one forward"),
    Draws: ("the same blocks get the same answers", "but that of admit differs"),
    MeanOverRows: ("rows do not depend on other rows", "but that of admit differs; reduce over the positions"),
    ReadsValue: ("a policy does not wait for the device", "but it reads a value from the device (.item()"),
}


@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_property_is_found_by_its_own_test(cls):
    assert_found(admission_properties(cls), *BROKEN[cls])


def test_every_property_is_broken_by_a_policy_above():
    assert {str(check) for check in admission_properties(Own)} == {name for name, _ in BROKEN.values()}


@pytest.mark.parametrize("policy", [Own, Own(), RestartingAdmission(0.7), "multi_bd"], ids=str)
def test_a_right_policy_has_every_property(policy):
    assert failures(admission_properties(policy)) == {}


def test_a_ready_policy_is_left_as_it_is():
    policy = Remembers()
    failures(admission_properties(policy))
    assert policy.count == 0


def test_what_cannot_be_made_is_refused():
    with pytest.raises(UserError, match="admission: expected a class that implements admit, got AdmissionPolicy"):
        admission_properties(AdmissionPolicy)
    with pytest.raises(UserError, match="admission 'progress': unknown option tau; known: theta"):
        admission_properties("progress", tau=1)
