"""Load command of the project: `python -m bench` measures the proxy against a bare ASGI application."""
