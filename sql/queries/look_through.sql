-- With somebody's eyes, until the transaction ends: the role that reads, and what its token says of it.
SELECT set_config('role', %(role)s, true), set_config('request.jwt.claims', %(claims)s, true)
