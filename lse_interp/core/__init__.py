"""Words that every other folder uses: errors, languages, command line, statistics."""
