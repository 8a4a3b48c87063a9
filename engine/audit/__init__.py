"""Audits: plans, runs that survive anything, and what they found, as files that need no Faultline. Only `verify` imports torch."""
