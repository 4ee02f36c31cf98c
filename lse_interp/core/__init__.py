"""Vocabulary shared by every stage: shapes, errors, languages, neurons, artefacts, command line."""
