"""Work in worker processes: Dask, on this machine by default. Importing this imports neither Dask nor torch."""

from engine.jobs.notes import Notes, Report
from engine.jobs.queue import Jobs, Priority, Progress, Workers

__all__ = ["Jobs", "Notes", "Priority", "Progress", "Report", "Workers"]
