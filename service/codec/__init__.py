"""Pictures to inputs and maps to files: in the process, or in processes of their own that know no network."""
