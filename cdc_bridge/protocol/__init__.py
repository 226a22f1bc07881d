"""The Directus subscription protocol: what clients say (`messages.py`), and what the server says (`frames.py`)."""

from cdc_bridge.protocol.frames import CloseCode, authenticated, error, event_frame, items, ping, pong, unsubscribed
from cdc_bridge.protocol.messages import (
    Authenticate,
    InvalidMessage,
    Message,
    Ping,
    Pong,
    ReadItems,
    Subscribe,
    Unsubscribe,
    parse,
)

__all__ = [
    "Authenticate",
    "CloseCode",
    "InvalidMessage",
    "Message",
    "Ping",
    "Pong",
    "ReadItems",
    "Subscribe",
    "Unsubscribe",
    "authenticated",
    "error",
    "event_frame",
    "items",
    "parse",
    "ping",
    "pong",
    "unsubscribed",
]
