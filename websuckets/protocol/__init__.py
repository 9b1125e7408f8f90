"""Messages and close codes of the wire format, and what transports implement."""
