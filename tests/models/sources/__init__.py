"""Tests of the sources of networks."""
