"""From numbers to decisions; pure functions."""
