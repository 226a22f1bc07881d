-- Tell the bridges that nobody notifies from here on. Before the gate is shut, and in a transaction of its own.
SELECT pg_notify('cdc_' || pg_sequence_last_value('{cdc}.channel'::regclass), E'2 S\n')
