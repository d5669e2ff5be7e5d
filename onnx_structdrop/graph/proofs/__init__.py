"""Proofs of what a random value becomes when nothing is dropped."""
