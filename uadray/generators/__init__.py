"""How a generator is trained, one file a generator; the catalog names them."""
