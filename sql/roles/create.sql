-- cdc_bridge: the role that owns what it installs, and the role that it serves as. Run this in the database that is to be
-- served, as a superuser, or as the owner of the database who has CREATEROLE. Running it again changes nothing.
--
-- It gives no password: \password in psql does, or pg_hba.conf says how these two roles log in.
BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

-- The names.
SET LOCAL cdc_bridge.owner_role = {owner};
SET LOCAL cdc_bridge.runtime_role = {runtime};
SET LOCAL cdc_bridge.reads_as = {reads_as};

DO $may$
DECLARE
    database CONSTANT text := current_database();
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = CURRENT_USER AND (rolsuper OR rolcreaterole)) THEN
        RAISE EXCEPTION 'the role % cannot make roles: run this as a role with CREATEROLE', CURRENT_USER;
    ELSIF NOT (has_database_privilege(database, 'CONNECT WITH GRANT OPTION') AND has_database_privilege(database, 'CREATE WITH GRANT OPTION')) THEN
        RAISE EXCEPTION 'the role % cannot let roles into this database: run this as its owner, %, or have the owner GRANT CONNECT, CREATE ON DATABASE % TO % WITH GRANT OPTION',
            CURRENT_USER, (SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = database), quote_ident(database), quote_ident(CURRENT_USER);
    END IF;
END
$may$;

-- The OWNER: connects for attach, detach, and what a newer version has to change. It owns the schema of cdc_bridge, and our triggers
-- run with its rights; so it should own nothing else. To give a table its triggers it has to be a member of the table's owner,
-- meanwhile:
--     GRANT the_tables_owner TO the_owner_role;  ...attach...  REVOKE the_tables_owner FROM the_owner_role;
-- Where nobody can grant that, since the administrator owns the tables and is no superuser, the administrator can be the owner role.
DO $owner$
DECLARE
    name CONSTANT text := current_setting('cdc_bridge.owner_role');
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
        EXECUTE format('CREATE ROLE %I LOGIN INHERIT', name);
    END IF;
    EXECUTE format('GRANT CONNECT, CREATE ON DATABASE %I TO %I', current_database(), name);
END
$owner$;

-- The RUNTIME role: connects for serve, status and prune. It reads the log of changes and the name of the channel, and has no
-- right on any table of the application's. It inherits nothing: what it may read it reads as the roles below, by SET ROLE.
DO $runtime$
DECLARE
    name CONSTANT text := current_setting('cdc_bridge.runtime_role');
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
        EXECUTE format('CREATE ROLE %I LOGIN NOINHERIT', name);
    ELSIF EXISTS (SELECT FROM pg_roles WHERE rolname = name
            AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)) THEN
        RAISE EXCEPTION 'the role % may do more than a runtime role should: choose another name', name;
    ELSIF pg_has_role(name, current_setting('cdc_bridge.owner_role'), 'MEMBER') THEN
        RAISE EXCEPTION 'the role % is a member of the owner role, and so may do all that it may: choose another name', name;
    ELSIF EXISTS (SELECT FROM pg_roles WHERE rolname = name AND (rolinherit OR NOT rolcanlogin)) THEN
        RAISE EXCEPTION 'the role % is there already, and not as it has to be: if it is meant for this, ALTER ROLE % LOGIN NOINHERIT',
            name, quote_ident(name);
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), name);
END
$runtime$;

-- Whom attach is to give the rights on our schema, now or when it makes it anew, is remembered in the comment of the owner role.
-- Since PostgreSQL 16 nobody but a superuser may comment on itself. An administrator who is the owner role grants itself the runtime
-- role instead, without admin, inherit and set: that gives it nothing, and nobody else can do it.
DO $remembered$
DECLARE
    owner CONSTANT text := current_setting('cdc_bridge.owner_role');
    runtime CONSTANT text := current_setting('cdc_bridge.runtime_role');
    mark CONSTANT text := 'cdc_bridge: the runtime role is ' || runtime;
    said CONSTANT text := (SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = owner);
    is_by_grant CONSTANT boolean := owner = CURRENT_USER AND current_setting('server_version_num')::int >= 160000
        AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = CURRENT_USER);
    administered CONSTANT text := CASE WHEN is_by_grant THEN runtime ELSE owner END;
BEGIN
    IF said = mark THEN
        RETURN;
    ELSIF is_by_grant AND starts_with(said, 'cdc_bridge: ') THEN
        RAISE EXCEPTION 'the comment of the role % names another runtime role: a superuser can say COMMENT ON ROLE % IS NULL',
            owner, quote_ident(owner);
    ELSIF is_by_grant THEN
        EXECUTE format('GRANT %I TO %I WITH ADMIN FALSE, INHERIT FALSE, SET FALSE GRANTED BY CURRENT_USER', runtime, owner);
    ELSIF said IS NOT NULL AND NOT starts_with(said, 'cdc_bridge: ') THEN
        RAISE EXCEPTION 'the role % has a comment already, where cdc_bridge remembers the runtime role: choose another owner role', owner;
    ELSE
        EXECUTE format('COMMENT ON ROLE %I IS %L', owner, mark);
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE EXCEPTION 'the role % has no ADMIN OPTION on the role %: a superuser, or whoever made that role, can GRANT % TO % WITH ADMIN OPTION',
        CURRENT_USER, administered, quote_ident(administered), quote_ident(CURRENT_USER);
END
$remembered$;

-- The roles that it may read as, for those who follow changes: the setting `roles`, and `anon_role`. Without such roles it reads as
-- itself, and needs SELECT on every attached table:
--     GRANT SELECT ON the_table TO the_runtime_role;
DO $reads_as$
DECLARE
    name CONSTANT text := current_setting('cdc_bridge.runtime_role');
    is_new CONSTANT boolean := current_setting('server_version_num')::int >= 160000;
    role text;
BEGIN
    FOREACH role IN ARRAY current_setting('cdc_bridge.reads_as')::text[] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            RAISE EXCEPTION 'there is no role % for clients: CREATE ROLE % NOLOGIN, GRANT it SELECT on what they may read, and run this again',
                role, quote_ident(role);
        END IF;
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = role AND rolsuper)
                OR pg_has_role(role, current_setting('cdc_bridge.owner_role'), 'MEMBER') THEN
            RAISE EXCEPTION 'the role % is a superuser or may act as the owner role: no client may have such rights', role;
        END IF;
        BEGIN
            EXECUTE format('GRANT %I TO %I', role, name)
                || CASE WHEN is_new THEN ' WITH INHERIT FALSE, SET TRUE' ELSE '' END;
        EXCEPTION WHEN insufficient_privilege THEN
            IF NOT pg_has_role(name, role, CASE WHEN is_new THEN 'SET' ELSE 'MEMBER' END) THEN
                RAISE EXCEPTION 'the role % has no ADMIN OPTION on the role %: a superuser, or whoever made that role, can GRANT % TO % WITH ADMIN OPTION',
                    CURRENT_USER, role, quote_ident(role), quote_ident(CURRENT_USER);
            END IF;
        END;
    END LOOP;
END
$reads_as$;

DO $whose$
DECLARE
    owner CONSTANT text := (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE oid = to_regnamespace('{cdc}'));
BEGIN
    IF owner IS NULL THEN
        RAISE NOTICE 'there is no schema of cdc_bridge yet: attach tables as the owner role, which gives the runtime role its rights';
    ELSIF owner <> current_setting('cdc_bridge.owner_role') THEN
        RAISE EXCEPTION 'the schema of cdc_bridge belongs to the role %: as that role, cdc-bridge detach --all --purge, then attach as the owner role, or SET ROLE % and what cdc-bridge sql prints',
            owner, quote_ident(current_setting('cdc_bridge.owner_role'));
    ELSIF NOT pg_has_role(owner, 'USAGE') THEN
        RAISE NOTICE 'attach as the owner role: it gives the runtime role what it lacks of its rights';
    END IF;
END
$whose$;

-- The rights of the runtime role on our schema, if that is there. When attach makes it, it gives them too.
{granting}

{guarding}
COMMIT;
