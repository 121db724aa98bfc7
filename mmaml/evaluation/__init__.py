"""What a trained run is worth: returns on held-out tasks, task embeddings, bad updates repeated."""
