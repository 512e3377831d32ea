-- Run once, as a superuser, in the database that Dayfly is to use (`CREATE DATABASE dayfly;` before).
-- Three roles: the owner makes the tables, the broker works with them, the auditor reads the records.

CREATE ROLE dayfly_owner LOGIN;
CREATE ROLE dayfly_broker LOGIN;
CREATE ROLE dayfly_auditor LOGIN;

-- Nobody else makes tables here, and nobody may connect who is not named.
DO $$ BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO dayfly_owner, dayfly_broker, dayfly_auditor', current_database());
END $$;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO dayfly_owner;
GRANT USAGE ON SCHEMA public TO dayfly_broker, dayfly_auditor;
