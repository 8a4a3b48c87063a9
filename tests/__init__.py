"""The tests. Waiting threads must not spin here either, and many test modules load torch before `engine` can say so."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
