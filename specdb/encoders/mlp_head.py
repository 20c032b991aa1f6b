"""The published parameter head: a small MLP from an embedding to labels."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from specdb.encoders.config import MlpHeadConfig

__all__ = ["MlpHead"]


class MlpHead(nn.Module):
    """Per hidden layer Linear, BatchNorm, ReLU, Dropout; then one Linear."""

    def __init__(self, config: MlpHeadConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or MlpHeadConfig()
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise((c.n_inputs, *c.hidden)):
            layers += [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU(), nn.Dropout(c.dropout)]
        layers.append(nn.Linear((c.n_inputs, *c.hidden)[-1], c.n_outputs))
        self.network = nn.Sequential(*layers)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map embeddings (B, n_inputs), standardised if the head was trained so, to labels (B, n_outputs)."""
        return self.network(embedding)
