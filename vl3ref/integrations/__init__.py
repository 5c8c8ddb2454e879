"""vl3ref inside other projects. Each file needs the project that it is for."""
