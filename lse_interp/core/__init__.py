"""Vocabulary shared by every command: shapes, errors, languages, neurons, artefacts, command line."""
