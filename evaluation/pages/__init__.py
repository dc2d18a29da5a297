"""Tables, figures and one HTML page from the numbers."""
