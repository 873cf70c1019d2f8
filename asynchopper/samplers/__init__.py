"""Samplers propose candidates; they decide from the state alone and change nothing."""

from __future__ import annotations

from asynchopper.samplers.base import Sampler, View
from asynchopper.samplers.portfolio import PortfolioSampler
from asynchopper.samplers.proposer import Proposer
from asynchopper.samplers.random import RandomSampler
from asynchopper.samplers.two_stage import TwoStageSampler
from asynchopper.trial import Proposal

__all__ = ["PortfolioSampler", "Proposal", "Proposer", "RandomSampler", "Sampler", "TwoStageSampler", "View"]
