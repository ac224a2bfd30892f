"""Batches by reference: what a batch's lines are and what came of them, kept in storage."""
