"""Tests for classes of your own, of four kinds: one test for each property that all of the kind have."""

from dmaxlit.testing.admissions import admission_properties
from dmaxlit.testing.decoders import decoder_properties
from dmaxlit.testing.noise import noise_properties
from dmaxlit.testing.property import ContractError, Property
from dmaxlit.testing.tasks import task_properties

__all__ = [
    "ContractError",
    "Property",
    "admission_properties",
    "decoder_properties",
    "noise_properties",
    "task_properties",
]
