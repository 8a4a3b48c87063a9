"""What stands behind the auditor: results asked for and kept, the desk, and the runs that a server drives. No torch."""
