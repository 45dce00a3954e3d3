"""The one HTTP client: judges, served models and sampling servers are all asked through it."""
