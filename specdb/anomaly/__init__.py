"""Unusual spectra: scores, their calibration against S/N, a ranking with reasons, and review by eye."""

from specdb.anomaly.calibration import Calibration, calibrate
from specdb.anomaly.deviations import Deviation, deviations_of
from specdb.anomaly.listing import AnomalyList, anomaly_list
from specdb.anomaly.ranking import combine, rank
from specdb.anomaly.review import MARKS, Mark, add_marks, latest_marks, read_marks, rerank
from specdb.anomaly.run import AnomalyRun, anomaly_table, run_anomalies
from specdb.anomaly.scores import SCORES
from specdb.anomaly.survey import AnomalySettings, Survey

__all__ = [
    "MARKS",
    "SCORES",
    "AnomalyList",
    "AnomalyRun",
    "AnomalySettings",
    "Calibration",
    "Deviation",
    "Mark",
    "Survey",
    "add_marks",
    "anomaly_list",
    "anomaly_table",
    "calibrate",
    "combine",
    "deviations_of",
    "latest_marks",
    "rank",
    "read_marks",
    "rerank",
    "run_anomalies",
]
