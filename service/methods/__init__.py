"""What is known of the methods without their code."""
