"""Scripts that derive the small tables shipped in `data/` from their published sources."""
