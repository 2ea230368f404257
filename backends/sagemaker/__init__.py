"""AWS SageMaker real-time endpoints."""
