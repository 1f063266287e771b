"""What answers and scores, one module for each way; each runs in a child process (`recipes/worker.py`)."""
