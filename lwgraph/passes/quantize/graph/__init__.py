"""Rewrites of graphs for integers: quantizing nodes, half precision, opsets, recurrent bodies."""
