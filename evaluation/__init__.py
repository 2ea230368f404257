"""Worth and behaviour of a model or endpoint: suites, records, comparison, red team, card."""
