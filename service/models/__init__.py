"""Embedded networks and their weights."""
