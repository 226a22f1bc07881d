"""The WebSocket server: connections, HTTP, authentication handshake, limits."""
