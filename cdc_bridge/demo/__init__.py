"""`cdc-bridge demo`: a database, a bridge, a writer and a subscriber, all in one and gone afterwards."""
