"""Models resident on a device, and the one thread that runs them."""
