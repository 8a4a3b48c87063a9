"""Audit runs, and the form that starts one."""
