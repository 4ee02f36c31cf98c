"""Files on disk: written whole, checked on load; knows no model and no measurement."""
