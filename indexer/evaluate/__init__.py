"""What an encoder is worth: its figures beside those of normalised pixels and principal components.

`indexer.evaluate.report.SECTIONS` lists what is measured; each section is a function of a `Context`.
"""
