"""Other compressors on the same models, data and clock.

Each peer is a small script beside this file, run in a process of its own, in a virtual environment of its own where its
packages would get in our way: `python SCRIPT MODEL FEEDS OUT OPTIONS`. FEEDS is a folder of .npz files, one per
calibration sample; OPTIONS is JSON. A script imports nothing of lwgraph and nothing of its siblings.
"""
