"""Anomaly scores over stored embeddings: each a small class, calibrated, combined and explained."""
