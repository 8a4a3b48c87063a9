"""What every test needs, however the suite was started."""

from __future__ import annotations

import signal

# A shell starts background jobs with SIGINT ignored, and every process started from here would ignore it too: servers
# that the tests end as Ctrl-C does would go on for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)
