"""A chat whose backend blocks: Flask under gunicorn's sync workers, WebSockets by the proxy."""
