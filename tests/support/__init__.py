"""What the tests stand on: real servers, a real proxy, a real client. Nothing here is a stand-in."""
