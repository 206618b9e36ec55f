"""Talks to an endpoint: slides in, decisions out, from Python and from the command line."""
