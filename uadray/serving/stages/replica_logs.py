"""What a replica writes to its log: warnings of everything, and what uadray says, the audit lines among it."""

import logging
import sys

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_to_output() -> None:
    """Send the log of uadray to standard output, which Ray keeps with its logs; again, it does nothing."""
    logger = logging.getLogger("uadray")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter(FORMAT))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
