"""The queued store: ordered tasks in Redis, applied by workers. `queued_store` has it."""
