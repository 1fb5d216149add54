"""Orbax tells of failures in tracebacks of its threads; here they are told once, in one line."""

import logging
import sys
from typing import Any

from absl import logging as absl_logging

_quiet = False


def quiet_orbax() -> None:
    """Keeps Orbax's own words on failed reads and writes off the terminal, but for --debug.

    The errors themselves reach the caller of Orbax. Where one array of many fails, those that are
    still at work report to an event loop that is gone by then, which Python tells of too.
    """
    global _quiet
    if _quiet:
        return
    _quiet, before = True, sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    def wanted(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname or absl_logging.get_verbosity() > absl_logging.ERROR

    sys.unraisablehook = hook
    absl_logging.get_absl_logger().addFilter(wanted)
    # "Task exception was never retrieved"
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL)
