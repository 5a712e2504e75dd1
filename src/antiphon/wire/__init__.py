"""Facts of the OpenAI API's wire that both the server and the toolkit need. Pure; imports nothing else of the package."""
