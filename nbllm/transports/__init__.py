"""Ways to reach a provider: each yields stamped frames."""
