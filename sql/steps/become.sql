-- What is made from here on belongs to the owner of our schema, as the rest of it does; until the end of the transaction.
SET LOCAL ROLE {owner}
