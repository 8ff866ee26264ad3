"""Tests of the networks that ship with the service."""
