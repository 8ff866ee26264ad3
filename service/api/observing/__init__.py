"""What is known of requests from outside of them: a record each, which becomes a line of log, metrics and a span."""
