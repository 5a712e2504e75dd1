"""What an application imports: built on the official ``openai`` client alone."""
