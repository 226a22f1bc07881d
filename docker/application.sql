-- The application of compose.yaml: somebody says something every second, and what is older than a minute goes.
\set QUIET on
WITH old AS (DELETE FROM messages WHERE sent_at < now() - interval '1 minute')
INSERT INTO messages (room, author, text)
    SELECT rooms.id, authors.id, 'It is ' || to_char(now(), 'HH24:MI:SS') FROM rooms, authors ORDER BY random() LIMIT 1
\watch 1
