"""The model repository: reads bundles from its folder, checks them, and notices new versions while the gateway runs."""
