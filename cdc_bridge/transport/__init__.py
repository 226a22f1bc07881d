"""How clients reach us. One module a way of transport."""
