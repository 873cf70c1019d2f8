"""The samplers that come with asynchopper keep the contract of samplers."""

import pytest

from asynchopper import PortfolioSampler, RandomSampler, TwoStageSampler
from asynchopper.samplers import Sampler
from asynchopper.testing import SamplerContract


class TestRandomSampler(SamplerContract):
    @pytest.fixture
    def sampler(self) -> Sampler:
        return RandomSampler()


class TestTwoStageSampler(SamplerContract):
    @pytest.fixture
    def sampler(self) -> Sampler:
        return TwoStageSampler()


class TestPortfolioSampler(SamplerContract):
    @pytest.fixture
    def sampler(self) -> Sampler:
        return PortfolioSampler()
