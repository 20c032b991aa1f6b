"""Training: views of real spectra, objectives, the loop, figures of merit, and the recipe of `specclip-mini`."""
