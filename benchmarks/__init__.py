"""Speed and size, as ratios within one run against a peer or a floor."""
