"""`make bench`: one table of ratios, fmce beside a peer, sides taking turns in one run."""
