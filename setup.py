"""Declares the C kernels; everything else is in pyproject.toml."""

from setuptools import setup

setup()
