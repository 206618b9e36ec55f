"""Who may do what, and which places may be read."""
