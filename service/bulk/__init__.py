"""Many pictures from the command line: files in, files out, and a manifest that lets the next run go on."""
