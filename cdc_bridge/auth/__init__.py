"""Who a client is: what is proved by a token, and by which key. One module a way of proving."""
