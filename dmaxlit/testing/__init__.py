"""Tests for strategies and decoders of your own: one test for each property that all of them have."""

from dmaxlit.testing.decoders import decoder_properties
from dmaxlit.testing.noise import noise_properties
from dmaxlit.testing.property import ContractError, Property

__all__ = ["ContractError", "Property", "decoder_properties", "noise_properties"]
