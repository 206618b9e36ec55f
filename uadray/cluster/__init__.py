"""All of Ray Data and Ray Core."""
