"""Who is next on a device, and the thread that works for it. Knows no network."""
