"""What the listener says and hears over HTTP: hooks, pages, metrics, an API."""
