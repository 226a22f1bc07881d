-- Which of the given schemas there are.
SELECT n.nspname FROM pg_namespace n WHERE n.nspname = ANY(%(schemas)s)
