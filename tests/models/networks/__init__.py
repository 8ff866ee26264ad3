"""Tests of what is done to a network before it is served."""
