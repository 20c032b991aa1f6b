"""Simulated surveys: stars from a population, their spectra, an instrument, and files in the survey's own format."""

from indexer.simulate.emulator import Emulator
from indexer.simulate.lrs_files import write_lamost
from indexer.simulate.survey import LamostSurvey, simulate_lamost

__all__ = ["Emulator", "LamostSurvey", "simulate_lamost", "write_lamost"]
