-- Remember that the gaps up to this one are mended: everybody who could have made one has ended.
SELECT setval('{cdc}.mended'::regclass, %(counter)s)
