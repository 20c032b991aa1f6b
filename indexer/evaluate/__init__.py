"""What an encoder is worth: its figures beside those of normalised pixels and principal components."""
