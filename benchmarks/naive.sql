-- What everybody writes first, as a reference: a notification for each row.
CREATE FUNCTION tell_naively() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('naive', row_to_json(coalesce(NEW, OLD))::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON naive FOR EACH ROW EXECUTE FUNCTION tell_naively();
