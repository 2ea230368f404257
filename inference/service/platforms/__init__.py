"""The contracts of the platforms that run our container."""
