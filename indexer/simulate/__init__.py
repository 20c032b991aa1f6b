"""Simulated surveys: stars from a population, their spectra, instruments, and files in the surveys' own formats."""

from indexer.simulate.desi_files import DesiSurvey, simulate_desi
from indexer.simulate.emulator import Emulator
from indexer.simulate.lrs_files import write_lamost
from indexer.simulate.pair_survey import PairSurvey, simulate_pairs
from indexer.simulate.pairs import Pairs, PairSimulator, draw_pairs
from indexer.simulate.survey import LamostSurvey, simulate_lamost

__all__ = [
    "DesiSurvey",
    "Emulator",
    "LamostSurvey",
    "PairSimulator",
    "PairSurvey",
    "Pairs",
    "draw_pairs",
    "simulate_desi",
    "simulate_lamost",
    "simulate_pairs",
    "write_lamost",
]
