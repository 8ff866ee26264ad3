"""The machine that the process runs on: what it may use of it, and with whom.

accelerators  the device that networks run on
cores         how many cores the process may use; known before PyTorch is loaded
waiting       how threads of a parallel loop wait for the next one; chosen before PyTorch is loaded
"""
