"""The machine that the process runs on: what it may use of it, and with whom. Known before PyTorch is loaded.

cores    how many cores the process may use
waiting  how threads of a parallel loop wait for the next one

"""
