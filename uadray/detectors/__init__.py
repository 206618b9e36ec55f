"""One file a detector; the catalog names them."""
