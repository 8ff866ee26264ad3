"""One network, resident on a device. Knows no queue."""
