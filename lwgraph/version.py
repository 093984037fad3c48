"""The version of lwgraph that is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("lwgraph")
except PackageNotFoundError:  # run from a folder that was not installed
    __version__ = "unknown"

__all__ = ["__version__"]
