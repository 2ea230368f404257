"""Deployments on this machine: processes that a supervisor keeps running behind one address."""
