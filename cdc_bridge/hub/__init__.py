"""Who follows what on this node, and the way of a change to all of them. Nothing here waits."""
