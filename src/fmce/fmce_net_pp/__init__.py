"""Method 2, FMCE-Net++: training with a frozen FMCE-Net as auxiliary head, and paired comparisons."""
