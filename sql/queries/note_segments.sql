-- Note what somebody has done to segments of the log by hand: their numbers.
SELECT {cdc}.note_segments()
