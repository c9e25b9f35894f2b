"""Predictions to AWS: insights in DynamoDB, alerts on EventBridge. Imports of ours only `streams.contract`."""
