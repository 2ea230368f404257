"""What a deployment is: spec, sizing, plan, apply, journal, attestation."""
