"""What may be done with a model: terms as data, the gate, the acceptance ledger."""
