"""Runs a cluster on this machine: Redis, workers and Flower, kept alive and ended in order."""
