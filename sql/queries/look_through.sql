-- With somebody's eyes, until the transaction ends: the role that reads, what its token says of it, and what names mean to it.
SELECT
    set_config('role', %(role)s, true),
    set_config('request.jwt.claims', %(claims)s, true),
    set_config('search_path', current_setting('cdc_bridge.search_path'), true)
