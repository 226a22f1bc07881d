-- What the demo's writer does, over and over, about one statement a second. Each comment is shown above its
-- statement. What a round adds it also removes.

-- Ann writes a message.
INSERT INTO messages (room, author, text) VALUES (1, 1, 'Hello, everybody!');

-- She corrects it.
UPDATE messages SET text = 'Hello, everyone!' WHERE id = (SELECT max(id) FROM messages);

-- Ben and Cleo answer: two rows of one statement travel in one event.
INSERT INTO messages (room, author, text) VALUES (1, 2, 'Hi Ann'), (1, 3, 'Good morning');

-- The room gets another topic.
UPDATE rooms SET topic = 'Good morning, everyone' WHERE id = 1;

-- Cleo thinks better of it.
DELETE FROM messages WHERE id = (SELECT max(id) FROM messages WHERE author = 3);

-- A guest comes along ...
INSERT INTO authors (name) VALUES ('Guest');

-- ... opens a room ...
INSERT INTO rooms (name, topic) VALUES ('kitchen', 'Who is cooking?');

-- ... and writes there.
INSERT INTO messages (room, author, text)
    SELECT rooms.id, authors.id, 'Soup for all' FROM rooms, authors
    WHERE rooms.name = 'kitchen' AND authors.name = 'Guest';

-- The guest leaves: the foreign key sets the author of the message to null, and that is an event too.
DELETE FROM authors WHERE name = 'Guest';

-- The room closes: the cascade deletes its message, and that is an event too.
DELETE FROM rooms WHERE name = 'kitchen';

-- A transaction that fails leaves nothing, so nothing is sent.
DO $$ BEGIN
    INSERT INTO messages (room, author, text) VALUES (1, 2, 'never seen');
    RAISE EXCEPTION 'rolled back';
EXCEPTION WHEN raise_exception THEN NULL;
END $$;

-- Tomorrow's messages make room: everything but the last three goes.
DELETE FROM messages WHERE id NOT IN (SELECT id FROM messages ORDER BY id DESC LIMIT 3);
