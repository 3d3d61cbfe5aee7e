"""One experiment from stores to report."""
