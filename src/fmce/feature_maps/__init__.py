"""The FMCS-Dataset: feature maps of the marker checkpoints, labelled with their phases."""
