-- How many bytes a segment of the change log may take before writers go on to the next one.
SELECT setval('{cdc}.segment_bytes'::regclass, {size_bytes})
