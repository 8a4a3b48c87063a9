"""Work in worker processes: Dask, on this machine by default. Importing this imports neither Dask nor torch."""

from engine.jobs.queue import Jobs, Priority, Progress, Workers
from engine.jobs.worker import Notes, Report

__all__ = ["Jobs", "Notes", "Priority", "Progress", "Report", "Workers"]
