"""What of a client's data may be learned from what it sends: the schema of an update, differential
privacy with its budget, and secure sums. The parts that need packages import them when they run
(`pip install "lamina[privacy]"`)."""
