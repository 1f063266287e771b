"""The order of work: the command line, the build file, the sources and the pipeline."""
