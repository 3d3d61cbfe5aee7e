"""How an adapter is trained: batches, loss, loop."""
