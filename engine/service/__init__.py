"""What can be asked, and how it is answered: tasks, workers, the facade, runs, the registry."""
