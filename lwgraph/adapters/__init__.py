"""lwgraph inside other tools: Olive, Optimum, passes of onnx_ir.

Each module needs the package that it is named after, and nothing else of lwgraph imports it.
"""
