"""From a model's name to an address and a key: provider rows, configuration, key stores, prices."""
