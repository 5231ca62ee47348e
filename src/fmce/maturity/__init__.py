"""Method 1, FMCE: convergence phases of a training, FMCE-Net, Grad-CAM across phases."""
