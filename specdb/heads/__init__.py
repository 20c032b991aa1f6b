"""Small models from stored embeddings to labels, with uncertainties."""
