"""How clients reach the bridge: connections, HTTP, authentication handshake, limits."""
