"""A trained model on its way to others: exported with its scores, pushed to the Hugging Face hub."""
