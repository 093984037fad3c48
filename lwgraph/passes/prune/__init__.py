"""Passes that remove what contributes least: channels, blocks, single weights."""
