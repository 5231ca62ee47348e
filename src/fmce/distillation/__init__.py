"""Method 3, function matching: a compact student imitates a teacher."""
