"""A trained model as a folder, with its model card."""

README = "README.md"  # the card's file, as the Hugging Face hub wants it
