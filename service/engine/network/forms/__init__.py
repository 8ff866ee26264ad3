"""What networks are wrapped in and what they return, and the one form that the engine takes."""
