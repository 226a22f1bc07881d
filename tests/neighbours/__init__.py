"""Programs that users have beside a bridge already."""
