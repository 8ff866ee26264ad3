"""Networks of `torch.export`: graphs of operators, made what the rest of the service knows."""
