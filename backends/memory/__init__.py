"""A backend whose platform is a table in memory or in one file."""
