-- The instant at which this transaction began, in microseconds since 1970.
SELECT (extract(epoch FROM now()) * 1000000)::bigint::text
