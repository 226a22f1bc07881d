-- Who may read the tables to try it with: whoever has a token for the role "web". The roles of your application do as well.
CREATE ROLE web NOLOGIN;
GRANT SELECT ON authors, rooms, messages TO web;
