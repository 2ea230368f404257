"""Licences: terms as data, the gate, the acceptance ledger."""
