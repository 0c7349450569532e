"""Programs that use the proxy."""
