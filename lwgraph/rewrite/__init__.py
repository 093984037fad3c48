"""Passes: the contract, the options, the pattern language, the driver, the pipeline and its instruments."""
