"""Passes that compute or store in fewer bits, and their parts: placing, grids, graph, judging."""
