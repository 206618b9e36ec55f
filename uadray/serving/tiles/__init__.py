"""Images in a request -> scores in the answer."""
