"""Public models with real weights and scores. The repository keeps only the one that lwgraph trained itself."""
