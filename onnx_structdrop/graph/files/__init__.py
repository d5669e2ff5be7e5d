"""What reading and writing model files takes: checks, external data, fidelity, atomicity."""
