"""Files that operations deploy, and the code that writes some of them."""
