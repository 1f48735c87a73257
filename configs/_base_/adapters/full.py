# Full fine-tuning: everything trains.
adapter = None
