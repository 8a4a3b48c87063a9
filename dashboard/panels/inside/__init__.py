"""Inside the model: where the attacks of a run take hold, over all of its images."""
