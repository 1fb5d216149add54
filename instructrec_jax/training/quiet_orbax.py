"""Orbax tells of failures in tracebacks of its threads; here they are told once, in one line."""

import inspect
import logging
import sys
import threading
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
    _quiet = True
    before, before_in_threads = sys.unraisablehook, threading.excepthook

    def hook(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        # One that is given up while it reads tells of that as of a failure.
        of_orbax = inspect.iscode(code) and "orbax" in code.co_filename
        if not of_orbax and not _of_closed_loop(unraisable.exc_value):
            before(unraisable)

    def hook_in_threads(failure: Any) -> None:
        if not _of_closed_loop(failure.exc_value):
            before_in_threads(failure)

    def wanted(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname or absl_logging.get_verbosity() > absl_logging.ERROR

    sys.unraisablehook = hook
    threading.excepthook = hook_in_threads
    absl_logging.get_absl_logger().addFilter(wanted)
    # "Task exception was never retrieved"
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL)


def _of_closed_loop(error: BaseException | None) -> bool:
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
