"""Images, feature-map data sets and their splits."""
