"""Graphs rewritten around integers: the quantizing nodes, halves, opsets, recurrent bodies."""
