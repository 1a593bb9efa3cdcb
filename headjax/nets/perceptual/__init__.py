"""Networks that were trained elsewhere and serve as losses and metrics, by their public weights."""
