"""The promise under force: random schemas, writers, clients and mishaps, judged by an oracle.

`plan` decides everything that a seed can decide, and does nothing. `story` carries a plan out: `writer` changes rows
and keeps the `truth` of what was committed, `client` follows and keeps what it was told, `fleet` runs the bridges,
`mishaps` befall them. `oracle` compares what was told with the truth; it knows neither sockets nor SQL.

By hand, for as long as you like: `make torture SEED=7 MINUTES=30`.
"""
