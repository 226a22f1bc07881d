"""cdc_bridge: row changes of a PostgreSQL database, live, to WebSocket clients."""

__version__ = "0.1.0"
