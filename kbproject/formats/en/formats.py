"""Times in the admin as they stand in logs (settings.FORMAT_MODULE_PATH)."""

DATETIME_FORMAT = "Y-m-d H:i:s e"
