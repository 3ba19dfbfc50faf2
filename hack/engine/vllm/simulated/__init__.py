"""What makes the simulation: memory, boot, engine, HTTP."""
