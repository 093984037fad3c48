"""Data readers, streaming capture of layer inputs, and their statistics."""
