"""Small models from stored embeddings to labels, with uncertainties: train, predict, evaluate."""

import importlib
from typing import Any

#: Name -> module; torch and FAISS are imported only by what needs them.
_NAMES = {
    "Flag": "config",
    "Head": "head",
    "HeadCard": "card",
    "HeadConfig": "config",
    "HeadEvaluation": "evaluate",
    "LabelFacts": "card",
    "PredictReport": "predict",
    "Prediction": "card",
    "draw_posteriors": "sampling",
    "evaluate_head": "evaluate",
    "fit_head": "head",
    "head_kinds": "kinds",
    "import_head": "published",
    "import_posterior": "published",
    "list_heads": "train",
    "load_head": "train",
    "predict_survey": "predict",
    "train_head": "train",
}

__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
