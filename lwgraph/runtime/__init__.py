"""Executors: ONNX Runtime, and a reference that shares no code with it."""
