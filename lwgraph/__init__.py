"""lwgraph: a compiler that makes ONNX models smaller and faster, with proof."""
