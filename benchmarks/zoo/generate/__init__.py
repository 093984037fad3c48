"""Evaluation data anyone can make, one module per data set: `make()` gives the pictures, `RECIPE` its version.

Photos come with scikit-image and foolbox, fonts with packages of fonts, texts from the licence file; everything else is
drawn from a fixed seed. Calibration and evaluation never share a photo, and never a text.
"""
