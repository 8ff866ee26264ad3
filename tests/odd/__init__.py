"""Networks, files and requests that people report to have been answered falsely, or not at all, elsewhere."""
