"""FMCE-Net++ over models, data sets, RAFs and seeds."""
